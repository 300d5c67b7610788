# %% text
# # Probe an encoder, with the control that could fool you
#
# Chapter 9: *Usefulness across learning paradigms*. About 60 minutes; a minute of computing.
#
# **Objectives.** You can (1) fit a linear probe that sees no test image, (2) say how much of its accuracy the encoder
# has learned, (3) tell what a probe learns from what it remembers.
#
# **Predict first.** A linear probe on a network with *random* weights: how often will it be right, of ten classes?
# Write a guess and a reason here:

# %% code
from sklearn.linear_model import LogisticRegression

from nbutils import networks, training


def encoded(network, data):
    """(N, 96) features of the images, before the last layer, as numbers that scikit-learn takes."""
    with torch.no_grad():
        return network.features(data.x, "pool").double().numpy()


untrained, trained = (networks.build("small", 10, seed=0).eval() for _ in range(2))
losses = training.fit(trained, train, training.Standard(), training.Schedule(6))
y, y_test = train.y.numpy(), test.y.numpy()

# %% text
# ## Question 1: a probe (3 points)
#
# Scale the features to mean 0 and variance 1, fit a `LogisticRegression(max_iter=1000)` and return its accuracy on
# the test features. Nothing about the test features may enter the fit, not even their mean.
#
# <details><summary>Hint 1</summary>
#
# Which features' mean and deviation does the scaling use, for both?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A feature that is constant has deviation 0: divide by 1 there.
#
# </details>

# %% answer q1
def probe(z, y, z_test, y_test):
    """Accuracy on the test features z_test (M, D), of a linear classifier fitted to z (N, D) and labels y (N,)."""
    ### BEGIN SOLUTION
    mean, deviation = z.mean(0), z.std(0)
    deviation = deviation + (deviation == 0)
    fitted = LogisticRegression(max_iter=1000).fit((z - mean) / deviation, y)
    return fitted.score((z_test - mean) / deviation, y_test)
    ### END SOLUTION

# %% check q1 3
def q1(mine, world):
    import numpy as np

    draw = np.random.default_rng(world.seed)
    y = draw.integers(0, 3, 400)
    z = np.eye(3)[y] * 6 + draw.normal(size=(400, 3))
    yield 1, mine.probe(z[:200], y[:200], z[200:], y[200:]) > 0.95, "it reads what can be read"
    constant = np.hstack([z, np.ones((400, 1))])
    yield 0.5, mine.probe(constant[:200], y[:200], constant[200:], y[200:]) > 0.95, "a constant feature does no harm"
    one = z[200:][y[200:] == 1]
    yield 1, mine.probe(z[:200], y[:200], one, np.ones(len(one), int)) > 0.9, "test features do not scale themselves"
    none = mine.probe(z[:200], draw.permutation(y[:200]), z[200:], y[200:])
    yield 0.5, none < 0.75, "it learns from the labels that it is given"

# %% text
# ## Question 2: how much has been learned? (3 points)
#
# The accuracy of a probe on the trained network's features and on those of the same network before training, fitted
# to your training images and tested on your test images. Store them as `after` and `before`, and as `gain` what
# training has added.

# %% answer q2
### BEGIN SOLUTION
after, before = (probe(encoded(net, train), y, encoded(net, test), y_test) for net in (trained, untrained))
gain = after - before
### END SOLUTION

# %% check q2 3
def q2(mine, world):
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = world.seen("train"), world.seen("test")
    truth = {}
    for name in ("trained", "untrained"):
        with torch.no_grad():
            z, z_test = (getattr(mine, name).features(data.x, "pool").double().numpy() for data in (train, test))
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z, train.y.numpy())
        truth[name] = fitted.score(z_test, test.y.numpy())
    yield 1, abs(mine.after - truth["trained"]) < 0.025, "the accuracy after training is that of your network"
    yield 1, abs(mine.before - truth["untrained"]) < 0.025, "so is the accuracy before"
    yield 1, abs(mine.gain - (truth["trained"] - truth["untrained"])) < 0.04, "and what training has added"

# %% text
# ## Question 3: what a probe remembers (2 points)
#
# Fit a probe on the trained features to training labels that you have shuffled. Store as `remembered` its accuracy on
# the very images and shuffled labels that it was fitted to, and as `guessed` its accuracy on the test images.

# %% answer q3
### BEGIN SOLUTION
shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).numpy()]
z = encoded(trained, train)
remembered = probe(z, shuffled, z, shuffled)
guessed = probe(z, shuffled, encoded(trained, test), y_test)
### END SOLUTION

# %% check q3 2
def q3(mine, world):
    yield 1, mine.guessed < 0.22, "on test images shuffled labels teach about as much as a guess"
    yield 1, 0.12 < mine.remembered < 0.6 and mine.remembered > mine.guessed, "on its own images it does better"

# %% text
# ## Question 4: what a random network shows (2 points)
#
# A probe can also be fitted to the pixels themselves. Average each image over blocks of 4 x 4 pixels (192 numbers)
# and store as `coarse` the accuracy of a probe on them. Then store as `reading` what explains the accuracy before
# training: "shape" if coarse pixels do at least as well as the untrained network, "fine" if the untrained network
# does better.

# %% answer q4
### BEGIN SOLUTION
def blocks(data):
    return torch.nn.functional.avg_pool2d(data.x, 4).flatten(1).double().numpy()


coarse = probe(blocks(train), y, blocks(test), y_test)
reading = "shape" if coarse >= before else "fine"
### END SOLUTION

# %% check q4 2
def q4(mine, world):
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = world.seen("train"), world.seen("test")
    z, z_test = (torch.nn.functional.avg_pool2d(data.x, 4).flatten(1).double().numpy() for data in (train, test))
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z, train.y.numpy())
    truth = fitted.score(z_test, test.y.numpy())
    yield 1, abs(mine.coarse - truth) < 0.03, "the accuracy on coarse pixels is right within 3 points"
    yield 1, mine.reading == ("shape" if mine.coarse >= mine.before else "fine"), "the conclusion follows"

# %% rubric
# **For the discussion.** A probe on random weights is far above one in ten: the features of a random network still
# hold much of the image. In the book it reaches
# {result}`planted/09_cross_paradigm_usefulness:usefulness.control.untrained.natural.SL` on an untrained encoder. So
# the accuracy of a probe says what is *there*, not what was *learned*; only the difference to the same encoder before
# training says that. Averages over 4 x 4 pixels hold no tile at all. Usual mistakes: scaling the test features by
# themselves; a control with another architecture; accuracy on the images that the probe was fitted to.
