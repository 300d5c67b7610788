"""Threat models, attacks, and what is left of a model's accuracy under them."""

from nbutils.robustness.attacks import BIM, FGSM, LOSSES, PGD, Attack, Noise
from nbutils.robustness.evaluate import Outcome, accuracy_curve, attacked, evaluate, health_checks, predict, worst_case
from nbutils.robustness.threat import ThreatModel, parse_eps

__all__ = ["BIM", "FGSM", "LOSSES", "PGD", "Attack", "Noise", "Outcome", "ThreatModel", "accuracy_curve", "attacked",
           "evaluate", "health_checks", "parse_eps", "predict", "worst_case"]
