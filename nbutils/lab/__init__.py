"""The laboratory: parameters and seeds of a run, the artifact store, results with intervals, figures."""

from nbutils.lab import figures
from nbutils.lab.results import Result, Table, published
from nbutils.lab.runs import ParameterError, Parameters, Run, progress, start
from nbutils.messages import counted
