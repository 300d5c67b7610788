"""The engine of the book: images with known features, attacks, training, and honest numbers.

The data flows one way: ImageSet -> SplitClassifier -> fit(objective) -> attack(threat model) -> Outcome -> Result.
"""

__version__ = "0.1.0"
