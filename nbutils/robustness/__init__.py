"""Threat models, attacks, and what is left of a model's accuracy under them."""

from nbutils.robustness.attacks import BIM, FGSM, LOSSES, PGD, Noise, kim_pgd
from nbutils.robustness.autoattack import FAB, AutoAttack
from nbutils.robustness.evaluate import (
    Outcome,
    accuracy_curve,
    accuracy_gap,
    attacked,
    attacked_once,
    evaluate,
    health_checks,
    mean_transfer_rate,
    predict,
    right_before,
    transfer_matrix,
    transfer_perturbation,
    transfer_rate,
    worst_case,
)
from nbutils.robustness.minimum_norm import CW
from nbutils.robustness.threat import ThreatModel, parse_eps
