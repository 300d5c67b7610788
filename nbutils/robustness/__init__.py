"""Threat models, attacks, and what is left of a model's accuracy under them."""

from nbutils.robustness.attacks import BIM, FGSM, LOSSES, PGD, Attack
from nbutils.robustness.evaluate import Outcome, accuracy_curve, evaluate, health_checks, worst_case
from nbutils.robustness.threat import ThreatModel, parse_eps

__all__ = ["BIM", "FGSM", "LOSSES", "PGD", "Attack", "Outcome", "ThreatModel", "accuracy_curve", "evaluate",
           "health_checks", "parse_eps", "worst_case"]
