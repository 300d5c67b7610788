# %% text
# # Write the bottleneck's mask, and show that a wrong label works too
#
# Chapter 5: *Distilling features with an information bottleneck*. About 60 minutes; a minute of computing.
#
# **Objectives.** You can (1) turn noise scales into robust and non-robust channels, (2) say what the mask was told,
# (3) run the control that the published table lacks.
#
# **Predict first.** For a clean image the bottleneck is told a *wrong* label. From the channels that it then calls
# robust, how often will the network say this wrong label? Write a guess and a reason here:

# %% code
from nbutils import features, networks, training

model = networks.build("small", 10, seed=0)
losses = training.fit(model, train, training.Standard(), training.Schedule(6))
cut = features.last_cut(model)
few = test.take(60)  # the images of all questions
wrong = (few.y + 3) % 10


def scales(labels):
    """Noise scale and variance of each channel (60, C), when the bottleneck is told these labels."""
    found = features.distill(model, few, labels, cut)
    return found.sigma, found.variance

# %% text
# ## Question 1: the mask (3 points)
#
# A channel of an image is called robust where the noise that it stands is louder than the loudest channel of that
# image: $\sigma^2 > T$, where $T$ is the largest variance among the channels *of the image*.
#
# <details><summary>Hint</summary>
#
# `amax(1, keepdim=True)` is a maximum for each row that can be compared with the row.
#
# </details>

# %% answer q1
def robust_channels(sigma, variance):
    """(N, C) bool, for noise scales and variances (N, C)."""
    ### BEGIN SOLUTION
    return sigma**2 > variance.amax(1, keepdim=True)
    ### END SOLUTION

# %% check q1 3
def q1(mine, world):
    import torch

    draw = torch.Generator().manual_seed(world.seed)
    sigma, variance = 2 * torch.rand(40, 30, generator=draw), torch.rand(40, 30, generator=draw) + 0.1
    wanted = torch.stack([s * s > v.max() for s, v in zip(sigma, variance, strict=True)])
    found = mine.robust_channels(sigma, variance)
    yield 1, found.dtype == torch.bool and found.shape == (40, 30), "it gives a truth value for each channel"
    yield 1, torch.equal(found, wanted), "it is the mask of the formula"
    alone = torch.cat([mine.robust_channels(sigma[i:i + 1], variance[i:i + 1]) for i in range(40)])
    yield 1, torch.equal(alone, found) and torch.equal(alone, wanted), "no image's mask depends on the other images"

# %% text
# ## Question 2: two parts (2 points)
#
# The robust and the non-robust part of features $z$: zero outside their channels, and together exactly $z$.
#
# <details><summary>Hint</summary>
#
# A mask (N, C) becomes one for maps (N, C, H, W) by `mask[:, :, None, None]`.
#
# </details>

# %% answer q2
def parts(z, mask):
    """The robust and the non-robust part of z (N, C, H, W), for a mask (N, C)."""
    ### BEGIN SOLUTION
    wide = mask[:, :, None, None]
    return z * wide, z * ~wide
    ### END SOLUTION

# %% check q2 2
def q2(mine, world):
    import torch

    draw = torch.Generator().manual_seed(world.seed)
    z, mask = torch.randn(6, 5, 2, 2, generator=draw), torch.rand(6, 5, generator=draw) < 0.5
    robust, rest = mine.parts(z, mask)
    yield 1, torch.equal(robust + rest, z), "the two parts add up to the features exactly"
    yield 1, (robust[~mask] == 0).all() and (rest[mask] == 0).all(), "each is zero outside its channels"

# %% text
# ## Question 3: told the truth (3 points)
#
# Tell the bottleneck the true labels of `few`. How often does the network say the true label from the robust part,
# and how often from the non-robust part? Store the shares as `robust_true` and `rest_true`. They need not add up to 1:
# both parts may say it.
#
# <details><summary>Hint</summary>
#
# `model.features(few.x, cut)` gives the features, `model.logits_from(z, cut)` goes on from them.
#
# </details>

# %% answer q3
### BEGIN SOLUTION
def says(labels):
    """How often the robust and the non-robust part say the label that the bottleneck was told."""
    mask = robust_channels(*scales(labels))
    with torch.no_grad():
        both = parts(model.features(few.x, cut), mask)
        return [(model.logits_from(z, cut).argmax(1) == labels).double().mean().item() for z in both]


robust_true, rest_true = says(few.y)
### END SOLUTION

# %% check q3 3
def q3(mine, world):
    from nbutils import features

    few = world.seen("test").take(60)
    cut = features.last_cut(mine.model)
    mask = features.distill(mine.model, few, few.y, cut).robust
    robust, rest = ((features.masked_predictions(mine.model, few, m, cut) == few.y).double().mean().item()
                    for m in (mask, ~mask))
    yield 1.5, abs(mine.robust_true - robust) < 0.02, "the share of the robust part is that of your network"
    yield 1.5, abs(mine.rest_true - rest) < 0.02, "the share of the non-robust part is that of your network"

# %% text
# ## Question 4: told something wrong (2 points)
#
# Now tell it the labels `wrong`. How often does the network say the *wrong* label from the robust part? Store it as
# `robust_wrong`, and as `whole_wrong` how often it says it from all features.

# %% answer q4
### BEGIN SOLUTION
robust_wrong, _ = says(wrong)
with torch.no_grad():
    whole_wrong = (model(few.x).argmax(1) == wrong).double().mean().item()
### END SOLUTION

# %% check q4 2
def q4(mine, world):
    from nbutils import features
    from nbutils.robustness import predict

    few = world.seen("test").take(60)
    cut, wrong = features.last_cut(mine.model), (few.y + 3) % 10
    mask = features.distill(mine.model, few, wrong, cut).robust
    truth = (features.masked_predictions(mine.model, few, mask, cut) == wrong).double().mean().item()
    yield 1, abs(mine.robust_wrong - truth) < 0.02, "the share of the robust part is that of your network"
    whole = (predict(mine.model, few.x) == wrong).double().mean().item()
    yield 1, abs(mine.whole_wrong - whole) < 0.01, "the share of all features is that of your network"

# %% rubric
# **For the discussion.** The mask is made *for* a label: it keeps what speaks for it. So a high share of the robust
# part shows what the mask was told, not what is robust. In the book the robust part says a wrong label in
# {result}`planted/05_ib_distillation:bottleneck.wrong.robust_predicts_it`. Expected here: `robust_true` .7 to 1,
# `rest_true` close to it, `robust_wrong` far above `whole_wrong`, which is below .1. Usual mistakes: a threshold
# over the whole batch; the variance of the noise instead of its scale; the share of true labels in question 4, where
# the wrong label is asked for.
