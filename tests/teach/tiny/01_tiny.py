# %% text
# # A tiny assignment, for tests of grading

# %% code
from safetensors.numpy import load_file

labels = load_file("world.safetensors")["test.y"]

# %% answer q1
def double(x):
    ### BEGIN SOLUTION
    return x + x
    ### END SOLUTION

# %% check q1 2
def q1(mine, world):
    yield 1, mine.double(3) == 6, "twice 3 is 6"
    yield 1, mine.double(-2) == -4, "twice -2 is -4"

# %% text
# The sum of number times label, over all test images.

# %% answer q2
### BEGIN SOLUTION
total = sum(number * int(label) for number, label in enumerate(labels))
### END SOLUTION

# %% check q2 3
def q2(mine, world):
    truth = sum(number * int(label) for number, label in enumerate(world.test.shape))
    yield 3, mine.total == truth, "the sum is that of your world"

# %% rubric
# Usual mistakes: none.
