"""Learning paradigms: contrastive, masked images, diffusion; linear probes; usefulness across paradigms."""

from nbutils.paradigms.ddpm import DDPM, Noised, PredictDifference
from nbutils.paradigms.encoder import Backbone, Encoder, Labelled, Paradigm, pretrained, untrained
from nbutils.paradigms.mae import MAE, Masked, Reconstruct
from nbutils.paradigms.measures import above_chance, cross_paradigm, readable, relative, shown
from nbutils.paradigms.probe import extract, finetuned, linear_probe, randomised, with_projector
from nbutils.paradigms.recipes import recipes
from nbutils.paradigms.simclr import Alignment, Augmentation, ContrastiveEncoder, InfoNCE, SimCLR, nt_xent
