# %% text
# # NRF against CW, at one norm
#
# Chapter 8: *The attack on non-robust features*. About 60 minutes; a minute of computing.
#
# **Objectives.** You can (1) say why two attacks without a radius cannot be compared by accuracy, (2) compare them at
# one length of the change, (3) test a difference on the same images.
#
# **Predict first.** Neither attack has a radius: each goes as far as it likes. Bring the changes of both to one
# length. Which of the two will break more images then, the one with the longer changes or the other? Write a guess
# and a reason here:

# %% code
from nbutils import features, networks, training
from nbutils.robustness import CW

model = networks.build("small", 10, seed=0)
losses = training.fit(model, train, training.Standard(), training.Schedule(6))
few = test.take(60)  # the images of all questions
attacks = {"CW": CW(steps=40), "NRF": features.NRF(at=features.last_cut(model), steps=40)}
changed = {name: attack(model, few.x, few.y) for name, attack in attacks.items()}

# %% text
# ## Question 1: what they look like as they come (3 points)
#
# For each attack the share of images that are still right, and the median $L_2$ length of the change over *all* 60
# images. Store two dictionaries, `left` and `length`, with the keys "CW" and "NRF".

# %% answer q1
### BEGIN SOLUTION
def right(x):
    """(60,) bool: which of these images the network has right."""
    with torch.no_grad():
        return model(x).argmax(1) == few.y


left = {name: right(x).double().mean().item() for name, x in changed.items()}
length = {name: (x - few.x).flatten(1).norm(dim=1).median().item() for name, x in changed.items()}
### END SOLUTION

# %% check q1 3
def q1(mine, world):
    import torch

    few = world.seen("test").take(60)
    for name in ("CW", "NRF"):
        x = mine.attacks[name](mine.model, few.x, few.y)
        with torch.no_grad():
            truth = (mine.model(x).argmax(1) == few.y).double().mean().item()
        yield 0.75, abs(mine.left[name] - truth) < 0.02, f"the share that {name} leaves right is that of your network"
        median = (x - few.x).flatten(1).norm(dim=1).median().item()
        yield 0.75, abs(mine.length[name] - median) < 0.02 + 0.02 * median, f"so is the median length of {name}"

# %% text
# ## Question 2: one length (3 points)
#
# Bring each change to a given $L_2$ length, and the image into $[0, 1]$ afterwards. A change of length 0 has no
# direction: leave it 0.
#
# <details><summary>Hint</summary>
#
# Divide by the length of each change, bounded from below by 1e-12; 0 divided by that is still 0.
#
# </details>

# %% answer q2
def at_length(x, x_adv, length):
    """Images (N, 3, H, W) in [0, 1], changed from x in the direction of x_adv by this L2 length."""
    ### BEGIN SOLUTION
    change = x_adv - x
    norms = change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return (x + length * change / norms).clamp(0, 1)
    ### END SOLUTION

# %% check q2 3
def q2(mine, world):
    import torch

    draw = torch.Generator().manual_seed(world.seed)
    x, change = 0.4 + 0.2 * torch.rand(8, 3, 16, 16, generator=draw), torch.randn(8, 3, 16, 16, generator=draw) / 50
    found = mine.at_length(x, x + change, 0.7)
    lengths = (found - x).flatten(1).norm(dim=1)
    yield 1, (lengths - 0.7).abs().max() < 1e-4, "every change has the length that is asked for"
    cosine = torch.nn.functional.cosine_similarity((found - x).flatten(1), change.flatten(1))
    yield 1, cosine.min() > 0.9999, "and its old direction"
    edge = mine.at_length(torch.full((1, 3, 8, 8), 0.9), torch.ones(1, 3, 8, 8), 5.0)
    same = mine.at_length(x, x, 0.7)
    yield 1, edge.max() <= 1 and torch.equal(same, x), "images stay in [0, 1], and no change stays no change"

# %% text
# ## Question 3: the comparison (2 points)
#
# The share of images still right when all changes have length $.5$. Store it as `left_at_half`, again a dictionary.

# %% answer q3
### BEGIN SOLUTION
survived = {name: right(at_length(few.x, x, 0.5)) for name, x in changed.items()}
left_at_half = {name: kept.double().mean().item() for name, kept in survived.items()}
### END SOLUTION

# %% check q3 2
def q3(mine, world):
    import torch

    from nbutils import features
    from nbutils.robustness import CW

    few, test = world.seen("test").take(60), world.seen("test")
    with torch.no_grad():  # the attacks and the network are those that were given
        able = (mine.model(test.x).argmax(1) == test.y).double().mean() > 0.6
    for name, attack in {"CW": CW(steps=40), "NRF": features.NRF(at=features.last_cut(mine.model), steps=40)}.items():
        change = attack(mine.model, few.x, few.y) - few.x
        unit = change / change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        with torch.no_grad():
            truth = (mine.model((few.x + unit / 2).clamp(0, 1)).argmax(1) == few.y).double().mean().item()
        right = able and abs(mine.left_at_half[name] - truth) < 0.035
        yield 1, right, f"the share under {name} is that of your network"

# %% text
# ## Question 4: is it a difference? (2 points)
#
# Both attacks were tried on the same images, so only those count on which the two disagree. Store as `only_cw` how
# many images only CW breaks at length $.5$, as `only_nrf` how many only NRF breaks, and as `p_value` the exact
# two-sided p value that each of the two is equally likely (McNemar's test; `scipy.stats.binomtest` helps). If they
# never disagree it is 1.

# %% answer q4
### BEGIN SOLUTION
from scipy.stats import binomtest

only_cw = int((~survived["CW"] & survived["NRF"]).sum())
only_nrf = int((survived["CW"] & ~survived["NRF"]).sum())
p_value = binomtest(only_cw, only_cw + only_nrf).pvalue if only_cw + only_nrf else 1.0
### END SOLUTION

# %% check q4 2
def q4(mine, world):
    import torch
    from scipy.stats import binomtest

    from nbutils import features
    from nbutils.robustness import CW

    few, kept = world.seen("test").take(60), []
    for attack in (CW(steps=40), features.NRF(at=features.last_cut(mine.model), steps=40)):
        change = attack(mine.model, few.x, few.y) - few.x
        unit = change / change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        with torch.no_grad():
            kept.append(mine.model((few.x + unit / 2).clamp(0, 1)).argmax(1) == few.y)
    apart = mine.left_at_half["NRF"] - mine.left_at_half["CW"]
    counts = abs((mine.only_cw - mine.only_nrf) / 60 - apart) < 0.01
    yield 0.5, counts, "the two counts explain the difference of your shares"
    pairs = (mine.only_cw, ~kept[0] & kept[1]), (mine.only_nrf, kept[0] & ~kept[1])
    yield 0.5, all(abs(said - int(truth.sum())) <= 2 for said, truth in pairs), "they are those of your network"
    total = mine.only_cw + mine.only_nrf
    exact = binomtest(mine.only_cw, total).pvalue if total else 1.0
    yield 1, abs(mine.p_value - exact) < 1e-6, "the p value is that of your two counts"

# %% rubric
# **For the discussion.** An attack without a radius may spend what it likes; the one that spends more breaks more. At
# one length the question is about the *direction*, and there CW, which looks for the nearest image, is hard to beat.
# Seen in trial worlds of ours: `left` 0 or nearly so for both, `length` about .4 (CW) and .7 (NRF), `left_at_half` far
# lower for CW, and a p value far below .05. In a world where the two are close, a p value above .05 is an answer, not a
# failure. Usual mistakes: medians over the broken images only, which differ between the attacks; a mean over the batch
# instead of a length for each image; a test for two independent samples on the same images.
