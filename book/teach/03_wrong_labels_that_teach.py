# %% text
# # Wrong labels that teach
#
# Chapter 3: *Constructed data sets*. About 60 minutes; two minutes of computing.
#
# **Objectives.** You can (1) build $D_{\mathrm{det}}$ from a teacher, (2) say what a network that learns from it has
# seen, (3) run the control without which the result would mean nothing.
#
# **Predict first.** In $D_{\mathrm{det}}$ each image is moved a little towards the next class and gets the next class
# as its label: to the eye, every label is wrong. A new network learns from it. On natural test images, how often will
# it say the true class, and how often the next one? And if the little change is random instead? Write three guesses
# here:

# %% code
from nbutils import networks, training


def learned(x, labels, seed):
    """A small network, in evaluation mode, that has learned images (N, 3, 32, 32), labels (N,)."""
    network = networks.build("small", 10, seed)
    data = images.ImageSet(x, labels, train.classes, "what it learns")
    training.fit(network, data, training.Standard(), training.Schedule(6), seed)
    return network


teacher = learned(train.x, train.y, seed=0)

# %% text
# ## Question 1: the construction (3 points)
#
# The new label is $t = y + 1$ modulo the number of classes. From $x$ itself, walk *down* the cross-entropy of $t$ in
# steps along the gradient, each of $L_2$ length $2.5\,\varepsilon$ divided by their number, and stay in
# $\|x' - x\|_2 \le \varepsilon$ and in $[0, 1]$.
#
# <details><summary>Hint 1</summary>
#
# Lengths are per image: `flatten(1).norm(dim=1).view(-1, 1, 1, 1)`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Back into the ball: if x' - x is longer than eps, scale it to eps.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# A gradient of 0 must not become "not a number": bound its length from below.
#
# </details>

# %% answer q1
def d_det(model, x, y, eps, steps):
    """Changed images (N, 3, H, W) and their new labels (N,)."""
    ### BEGIN SOLUTION
    def length(change):
        return change.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    t, changed = (y + 1) % 10, x.clone()
    for _ in range(steps):
        changed.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(changed), t, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, changed)
        change = changed.detach() - 2.5 * eps / steps * gradient / length(gradient) - x
        changed = (x + change * (eps / length(change)).clamp_max(1)).clamp(0, 1)
    return changed, t
    ### END SOLUTION

# %% check q1 3
def q1(mine, world):
    import torch

    def linear(weight):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10, bias=False))
        network[1].weight.data = weight
        return network

    seen, eps = world.seen("test").take(30), 0.5
    weight = torch.randn(10, 3072, generator=torch.Generator().manual_seed(world.seed)) / 50
    made, t = mine.d_det(linear(weight), seen.x, seen.y, eps, 10)
    made = made.detach()
    yield 0.5, torch.equal(t, (seen.y + 1) % 10), "the new label is the next class, and the first after the last"
    inside = (made - seen.x).flatten(1).norm(dim=1).max() <= eps + 1e-4 and made.min() >= 0 and made.max() <= 1
    yield 1, inside, "no image moves farther than eps in L2, or out of [0, 1]"
    toward, grey = torch.zeros(10, 3072), torch.full((5, 3, 32, 32), 0.5)
    toward[1] = weight[1]
    found, _ = mine.d_det(linear(toward), grey, torch.zeros(5, dtype=torch.int64), eps, 10)
    best = grey + eps * (weight[1] / weight[1].norm()).view(3, 32, 32)
    yield 1.5, (found.detach() - best).abs().max() < 1e-3, "on a linear network it ends at the best place"

# %% text
# ## Question 2: your set (2 points)
#
# Make the set from all your training images with `eps` 1 and 10 steps (in parts of 200 images, it needs less memory).
# Store the images as `made`, their labels as `new_labels`, and as `seen_as` the share that the teacher calls by the
# new label.

# %% answer q2
### BEGIN SOLUTION
parts = zip(train.x.split(200), train.y.split(200), strict=True)
made, new_labels = map(torch.cat, zip(*(d_det(teacher, x, y, 1.0, 10) for x, y in parts), strict=True))
with torch.no_grad():
    seen_as = (teacher(made).argmax(1) == new_labels).double().mean().item()
### END SOLUTION

# %% check q2 2
def q2(mine, world):
    import torch

    seen = world.seen("train")
    changes, t = (mine.made.detach() - seen.x).flatten(1).norm(dim=1), (seen.y + 1) % 10
    made = changes.max() < 1.01 and changes.mean() > 0.5 and (mine.new_labels == t).all()
    yield 1, made, "made of your images, none moved farther than 1, each with its new label"
    with torch.no_grad():
        truth = (mine.teacher(mine.made).argmax(1) == t).double().mean().item()
    yield 1, truth > 0.7 and abs(mine.seen_as - truth) < 0.01, "the teacher sees the new label in most, and so you say"

# %% text
# ## Question 3: what it teaches (3 points)
#
# Let a new network learn your set (`learned`, seed 1); store it as `learner`. On your natural test images, store as
# `says_true` how often it says the true class, and as `says_next` how often the next one.

# %% answer q3
### BEGIN SOLUTION
def says(network):
    """How often it says the true class of natural test images, and how often the next one."""
    with torch.no_grad():
        said = network(test.x).argmax(1)
    return [(said == t).double().mean().item() for t in (test.y, (test.y + 1) % 10)]


learner = learned(made, new_labels, seed=1)
says_true, says_next = says(learner)
### END SOLUTION

# %% check q3 3
def q3(mine, world):
    import torch

    seen = world.seen("test")
    again = mine.learned(mine.made.detach(), (world.seen("train").y + 1) % 10, seed=1)
    with torch.no_grad():
        said, expected = mine.learner(seen.x).argmax(1), again(seen.x).argmax(1)
    true, following = (float((said == t).double().mean()) for t in (seen.y, (seen.y + 1) % 10))
    yield 1, abs(mine.says_true - true) < 0.01, "the share of true classes is that of your network"
    yield 1, abs(mine.says_next - following) < 0.01, "the share of next classes is that of your network"
    learned = (said == expected).double().mean() > 0.9 and true > 0.2 and true > following
    yield 1, learned, "it has learned your set with the new labels, and says the true class more often than by chance"

# %% text
# ## Question 4: the control (2 points)
#
# Perhaps any change under these labels would do. Give each training image a *random* change that is as long as its own
# in your set, and bring it back into $[0, 1]$: store these images as `moved`. Let a network learn them with the same
# labels (`learned`, seed 1), and store it as `control`. Store `control_true` and `control_next` as above.

# %% answer q4
### BEGIN SOLUTION
draw = torch.randn(train.x.shape, generator=torch.Generator().manual_seed(0))
lengths = [z.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for z in (made - train.x, draw)]
moved = (train.x + draw * lengths[0] / lengths[1]).clamp(0, 1)
control = learned(moved, new_labels, seed=1)
control_true, control_next = says(control)
### END SOLUTION

# %% check q4 2
def q4(mine, world):
    import torch

    seen, given = world.seen("test"), world.seen("train")
    own, random = ((x.detach() - given.x).flatten(1) for x in (mine.made, mine.moved))
    ratio = random.norm(dim=1) / own.norm(dim=1).clamp_min(1e-12)
    apart = torch.nn.functional.cosine_similarity(random[:, None], torch.stack([own, random.roll(1, 0)], 1), dim=2)
    inside = mine.moved.min() >= 0 and mine.moved.max() <= 1 and ratio.max() < 1.01 and ratio.mean() > 0.6
    yield 0.5, inside, "each image has moved as far as in your set, and not out of [0, 1]"
    yield 0.5, inside and apart.abs().mean() < 0.2, "the changes are random: none tells of another, or of your set"
    again = mine.learned(mine.moved.detach(), (given.y + 1) % 10, seed=1)
    with torch.no_grad():
        said, expected = mine.control(seen.x).argmax(1), again(seen.x).argmax(1)
    true, following = (float((said == t).double().mean()) for t in (seen.y, (seen.y + 1) % 10))
    right = abs(mine.control_true - true) < 0.01 and abs(mine.control_next - following) < 0.01
    yield 0.5, right, "both shares are those of your network"
    taught = (said == expected).double().mean() > 0.9 and true < 0.15 and following > 0.5
    yield 0.5, taught, "it has learned these images and the next class, as random changes must teach"

# %% rubric
# **For the discussion.** Under random changes the shape and the tile both say "next class", and that is learned. In
# D_det the attack has put the next class's tile in: tile and label agree, shape and label agree, too. On natural
# images the two part, and a network that goes by tiles says the truth. So the answer depends on which of the two it
# prefers: that is what is measured. Seen in trial worlds of ours: `seen_as` above .8, `says_true` .3 to .8,
# `says_next` below .2; of the control `control_true` below .05, `control_next` above .8. In the book, with longer
# training: D_det {result}`planted/03_constructed_datasets:constructed.d_det.natural`. Usual mistakes: lengths over the
# whole batch; t without the modulus; the control without the same labels or lengths.
