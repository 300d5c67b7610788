"""AutoAttack and FAB against the package that they call, against closed forms, and what they must leave untouched.

The library computes in float32; verdicts are compared exactly, images to 1e-6 per pixel, for a projection follows.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import pyautoattack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from nbutils import networks
from nbutils.images import PlantedSet
from nbutils.networks import SplitClassifier
from nbutils.robustness import FAB, PGD, AutoAttack, ThreatModel, evaluate

Pair = tuple[SplitClassifier, SplitClassifier]
LINF, L2 = ThreatModel("Linf", 2 / 255), ThreatModel("L2", 0.25)
VERSIONS = ["standard", "rand", "apgd", "apgd-ce"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_seed(seed: int = 0) -> int:
    """What an attack hands to the library when it is given the generator of this seed."""
    return int(torch.randint(2**31, (), generator=generator(seed)))


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


class Linear(nn.Module):
    """Logits (x - .5) W^T for images (3, 4, 4) and any number of classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=generator(classes)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def grey(n: int, spread: float = 0.1, seed: int = 1) -> Tensor:
    """(n, 3, 4, 4) pixels within `spread` of .5."""
    return 0.5 + spread * (2 * torch.rand(n, 3, 4, 4, generator=generator(seed)) - 1)


# --- the library, called directly ---------------------------------------------------------------------------------

def library(model: nn.Module, threat: ThreatModel, version: str, steps: int | None, x: Tensor, y: Tensor) -> Tensor:
    """The library's images; its own settings where steps is None."""
    own = version in ("standard", "rand")
    attacks = {"apgd": ["apgd-ce", "apgd-t"], "apgd-ce": ["apgd-ce"]}.get(version)
    made = pyautoattack.AutoAttack(model, norm=threat.norm, eps=threat.eps, seed=first_seed(), device="cpu",
                                   version=version if own else "custom", attacks=attacks)
    if not own:
        made.apgd.n_restarts = made.apgd_targeted.n_restarts = 1
        made.apgd_targeted.n_target_classes = 3
    if steps is not None:
        made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = steps
    with torch.random.fork_rng(devices=[]):
        return made.run_standard_evaluation(x, y, batch_size=len(x))[0].detach()


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, the random search makes 200 queries rather than 5,000, whoever runs it."""
    perturb = SquareAttack.perturb

    def shorter(self: SquareAttack, x: Tensor, y: Tensor) -> Tensor:
        self.n_queries = 200
        return perturb(self, x, y)

    return lambda: monkeypatch.setattr(SquareAttack, "perturb", shorter)


@pytest.mark.parametrize(("threat", "version", "steps", "n"), [
    (LINF, "standard", None, 2),
    (L2, "standard", 5, 2),
    (LINF, "rand", None, 2),
    (L2, "rand", 5, 8),
    (LINF, "apgd", 20, 60),
    (L2, "apgd", 20, 60),
    (LINF, "apgd-ce", 20, 60),
    (L2, "apgd-ce", 20, 60),
], ids=str)
def test_autoattack_equals_the_library(threat: ThreatModel, version: str, steps: int | None, n: int,
                                       network_pair: Pair, planted_test: PlantedSet,
                                       few_queries: Callable[[], None]) -> None:
    """With the version's own 100 steps nothing at all is set on the library."""
    if steps is not None:
        few_queries()
    model, x, y = network_pair[0], planted_test.x[:n], planted_test.y[:n]
    attack = AutoAttack(threat, version) if steps is None else AutoAttack(threat, version, steps)
    found = attack(model, x, y, generator())
    reference = library(model, threat, version, steps, x, y)
    verdicts = right(model, found, y)
    assert 0 < verdicts.sum() < n
    assert torch.equal(verdicts, right(model, reference, y))
    torch.testing.assert_close(found, reference, rtol=0, atol=1e-6)
    assert torch.equal(found[verdicts], x[verdicts])
    assert ((found >= 0) & (found <= 1)).all()
    assert (threat.distance(found - x) <= threat.eps + 1e-7).all()


@pytest.mark.parametrize("attack", [
    FAB("Linf", 2 / 255, 12), FAB("L2", 0.25, 12), FAB("Linf", 2 / 255, 6, 3), FAB("L2", 0.35, 1, 6),
    FAB("Linf", None, 12), FAB("L2", None, 12)], ids=repr)
def test_fab_equals_the_library(attack: FAB, network_pair: Pair, planted_test: PlantedSet) -> None:
    model, x, y = network_pair[0], planted_test.x[:12], planted_test.y[:12].clone()
    y[0] = (y[0] + 1) % 10  # needs no attack
    found = attack(model, x, y, generator())
    made = FABAttack_PT(model, norm=attack.norm, eps=float("inf") if attack.eps is None else attack.eps,
                        n_iter=attack.steps, n_restarts=attack.restarts, seed=first_seed(), device="cpu")
    with torch.random.fork_rng(devices=[]):
        reference = made.perturb(x, y).detach()
    verdicts = right(model, found, y)
    assert torch.equal(verdicts, right(model, reference, y))
    torch.testing.assert_close(found, reference, rtol=0, atol=1e-6)
    unchanged = (found == x).flatten(1).all(1)
    assert unchanged[0]
    assert torch.equal(unchanged[1:], verdicts[1:] | ~right(model, x, y)[1:])
    if attack.threat is None:
        assert not verdicts.any()
    else:
        assert 0 < verdicts.sum() < 11
        assert (attack.threat.distance(found - x) <= attack.eps + 1e-7).all()


# --- closed forms -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_unbounded_fab_on_a_linear_model_finds_the_nearest_boundary(norm: str, classes: int) -> None:
    """Between two classes the boundary lies at |f_k - f_y| / ||w_k - w_y|| in the dual norm; the nearest counts.
    Interior points; FAB oversteps by 5 %, never falls short, and halves that on its way back: within 1 %."""
    model, x = Linear(classes), grey(12)
    with torch.no_grad():
        logits = model(x).double()
    y = logits.argmax(1)
    w = (model.weight[None] - model.weight[y][:, None]).detach().double()
    dual = w.abs().sum(2) if norm == "Linf" else w.square().sum(2).sqrt()
    gaps = logits.gather(1, y[:, None]) - logits
    expected = (gaps / dual).scatter(1, y[:, None], torch.inf).amin(1)
    found = FAB(norm, steps=60)(model, x, y, generator())
    assert not right(model, found, y).any()
    assert ((found > 0) & (found < 1)).all()
    delta = (found - x).double().flatten(1)
    ratio = (delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)) / expected
    assert (ratio >= 1 - 1e-4).all(), ratio
    assert (ratio < 1.01).all(), ratio


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_within_a_radius_breaks_what_is_nearer(norm: str) -> None:
    """The verdict within eps is that of the unbounded distance, except within 1 % of eps."""
    model, x = Linear(10), grey(40)
    y = model(x).argmax(1)
    delta = (FAB(norm, steps=60)(model, x, y, generator()) - x).flatten(1)
    distance = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    eps = distance.median().item()
    clear = (distance / eps - 1).abs() > 0.01
    survived = right(model, FAB(norm, eps, 60)(model, x, y, generator()), y)
    assert clear.sum() > 30
    assert torch.equal(survived[clear], distance[clear] > eps)


# --- the parts and the whole --------------------------------------------------------------------------------------

@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_more_attacks_never_leave_more_images_right(threat: ThreatModel, network_pair: Pair,
                                                    planted_test: PlantedSet) -> None:
    model = network_pair[0]
    ce, targeted = (evaluate(model, planted_test, AutoAttack(threat, version, 10)).correct
                    for version in ("apgd-ce", "apgd"))
    assert (targeted <= ce).all()
    assert targeted.sum() < ce.sum()


def test_the_standard_version_never_leaves_more_images_right_than_its_first_part(
        network_pair: Pair, planted_test: PlantedSet, few_queries: Callable[[], None]) -> None:
    few_queries()
    few = planted_test.take(4)
    part = evaluate(network_pair[0], few, AutoAttack(LINF, "apgd-ce", 3)).correct
    whole = evaluate(network_pair[0], few, AutoAttack(LINF, "standard", 3)).correct
    assert 0 < whole.sum() < 4
    assert (whole <= part).all()


def test_steps_reach_every_part_that_takes_steps(network_pair: Pair, planted_test: PlantedSet,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(self: pyautoattack.AutoAttack, x: Tensor, y: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        seen.append((self.attacks_to_run, self.apgd.n_iter, self.apgd_targeted.n_iter, self.fab.n_iter,
                     self.apgd.n_restarts, self.apgd_targeted.n_restarts, self.fab.n_restarts, self.square.n_queries,
                     self.apgd_targeted.n_target_classes, self.fab.n_target_classes, self.apgd.eot_iter))
        return x, y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    x, y = planted_test.x[:2], planted_test.y[:2]
    for version in VERSIONS:
        AutoAttack(LINF, version, 7)(network_pair[0], x, y)
    AutoAttack(LINF, steps=7)(networks.build("small", 4), x, 0 * y)
    assert seen == [
        (["apgd-ce", "apgd-t", "fab-t", "square"], 7, 7, 7, 1, 1, 1, 5000, 9, 9, 1),
        (["apgd-ce", "apgd-dlr"], 7, 7, 7, 1, 1, 1, 5000, 9, 9, 20),
        (["apgd-ce", "apgd-t"], 7, 7, 7, 1, 1, 1, 5000, 3, 3, 1),
        (["apgd-ce"], 7, 7, 7, 1, 1, 1, 5000, 9, 9, 1),
        (["apgd-ce", "apgd-t", "fab-t", "square"], 7, 7, 7, 1, 1, 1, 5000, 3, 3, 1),
    ]


# --- class counts -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("version", "classes", "least"), [
    ("standard", 2, 4), ("standard", 3, 4), ("apgd", 2, 4), ("apgd", 3, 4), ("rand", 2, 3)])
def test_too_few_classes_are_refused(version: str, classes: int, least: int) -> None:
    model = Linear(classes).train()
    with pytest.raises(ValueError, match=f"version '{version}': the model has {classes} classes; expected at least "
                                         f"{least}, give classes = {classes} or take version 'apgd-ce'") as caught:
        AutoAttack(LINF, version)(model, grey(2), torch.tensor([0, 1]))
    assert "\n" not in str(caught.value)
    assert model.training
    assert model.weight.requires_grad


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("version", VERSIONS)
def test_enough_classes_are_attacked(version: str, classes: int, caplog: pytest.LogCaptureFixture) -> None:
    if classes < 4 and version != "apgd-ce":
        return  # refused, see above
    model, x = Linear(classes), grey(3)
    y = model(x).argmax(1)
    found = AutoAttack(ThreatModel("Linf", 0.2), version, 3)(model, x, y, generator())
    assert not right(model, found, y).any()
    assert not caplog.records  # the library has nothing to complain of


# --- edges --------------------------------------------------------------------------------------------------------

ATTACKS: list[AutoAttack | FAB] = [AutoAttack(LINF, "apgd", 3), AutoAttack(L2, "apgd-ce", 3),
                                   AutoAttack(LINF, "rand", 2), FAB("Linf", None, 3), FAB("L2", 0.25, 3, 2)]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_model_and_random_state_are_left_as_they_were(attack: AutoAttack | FAB, network_pair: Pair,
                                                      planted_test: PlantedSet) -> None:
    model = copy.deepcopy(network_pair[0]).train()
    model.stages[2].eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    for index, parameter in enumerate(parameters[1:-1]):
        parameter.grad = torch.full_like(parameter, index)
    modes = [module.training for module in model.modules()]
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x, y = planted_test.x[:6], planted_test.y[:6]
    before = x.clone()
    found = attack(model, x, y, generator())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, before)
    assert not found.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[-1].grad is None
    for index, parameter in enumerate(parameters[1:-1]):
        assert torch.equal(parameter.grad, torch.full_like(parameter, index))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(found, attack(model.eval(), x, y, generator()))  # it saw evaluation mode
    with torch.no_grad():
        assert torch.equal(found, attack(model, x, y, generator()))
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("attack", [AutoAttack(LINF, "apgd-ce", 2), FAB("L2", 0.35, 1, 6)], ids=repr)
def test_a_seed_decides_the_images(attack: AutoAttack | FAB, network_pair: Pair, planted_test: PlantedSet) -> None:
    x, y = planted_test.x[:40], planted_test.y[:40]
    first, again, other = (attack(network_pair[0], x, y, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    without = attack(network_pair[0], x, y)
    torch.manual_seed(5)
    assert torch.equal(attack(network_pair[0], x, y), without)  # then the global generator decides


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_empty_batch(attack: AutoAttack | FAB, network_pair: Pair) -> None:
    x = torch.zeros(0, 3, 32, 32)
    assert attack(network_pair[0], x, torch.zeros(0, dtype=torch.int64), generator()).shape == x.shape


@pytest.mark.parametrize("attack", [*(AutoAttack(ThreatModel(norm, 0), version) for version in VERSIONS
                                      for norm in ("Linf", "L2")), FAB("Linf", 0.0), FAB("L2", 0.0)], ids=repr)
def test_zero_radius_returns_the_image(attack: AutoAttack | FAB, network_pair: Pair, planted_test: PlantedSet) -> None:
    found = attack(network_pair[0], planted_test.x, planted_test.y, generator())
    assert torch.equal(found, planted_test.x)
    assert found.data_ptr() != planted_test.x.data_ptr()


def test_images_already_wrong_come_back_unchanged(network_pair: Pair, planted_test: PlantedSet) -> None:
    x, y = planted_test.x[:6], (network_pair[0](planted_test.x[:6]).argmax(1) + 1) % 10
    for attack in ATTACKS:
        assert torch.equal(attack(network_pair[0], x, y, generator()), x)


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.name, self.key = "constant", ""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("attack", [FAB("Linf", None, 3), FAB("L2", None, 3), FAB("L2", 0.2, 3, 2),
                                    AutoAttack(LINF, "apgd", 3)], ids=repr)
def test_a_model_without_slope_resists(attack: AutoAttack | FAB) -> None:
    x = grey(3)
    found = attack(Constant(1.0, 3.0, 0.0, 2.0), x, torch.tensor([1, 1, 1]), generator())
    assert torch.equal(found, x)


@pytest.mark.parametrize("attack", [FAB("Linf", None, 3), FAB("L2", 0.2, 3), AutoAttack(LINF, "apgd", 3)], ids=repr)
def test_logits_that_are_not_numbers_are_named_before_the_search(attack: AutoAttack | FAB) -> None:
    model = Constant(1.0, float("nan"), 0.0, 2.0)
    with pytest.raises(ValueError, match=r"the logits are not finite \(nan\); expected finite"):
        attack(model, grey(3), torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("attack", [FAB("Linf", None, 3), FAB("L2", 0.35, 3, 2), AutoAttack(LINF, "apgd", 3),
                                    AutoAttack(L2, "standard", 2)], ids=repr)
def test_images_may_lie_in_memory_as_they_like(attack: AutoAttack | FAB, network_pair: Pair, planted_test: PlantedSet,
                                               few_queries: Callable[[], None]) -> None:
    """Photographs are read channel by channel last; the library flattens what it is given."""
    few_queries()
    x, y = planted_test.x[:4], planted_test.y[:4]
    found = attack(network_pair[0], x.contiguous(memory_format=torch.channels_last), y, generator())
    assert torch.equal(found, attack(network_pair[0], x, y, generator()))


@pytest.mark.parametrize("attack", [FAB("Linf", None, 3), FAB("L2", 0.2, 3), AutoAttack(LINF, "apgd", 3)], ids=repr)
def test_models_in_float64_are_attacked_as_in_float32(attack: AutoAttack | FAB, network_pair: Pair,
                                                      planted_test: PlantedSet) -> None:
    model, x, y = network_pair[0], planted_test.x[:4], planted_test.y[:4]
    found = attack(copy.deepcopy(model).double(), x.double(), y, generator())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), attack(model, x, y, generator()), rtol=0, atol=1e-3)


# --- properties ---------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[str, float], AutoAttack | FAB]] = {
    "FAB": lambda norm, eps: FAB(norm, eps, 3, 2),
    "unbounded FAB": lambda norm, eps: FAB(norm, None, 3),
    "APGD-CE": lambda norm, eps: AutoAttack(ThreatModel(norm, eps), "apgd-ce", 3),
    "APGD": lambda norm, eps: AutoAttack(ThreatModel(norm, eps), "apgd", 3),
}


@given(kind=st.sampled_from(sorted(MAKERS)), norm=st.sampled_from(["Linf", "L2"]), eps=st.sampled_from([0.0, 0.1, 1.0]),
       classes=st.sampled_from([2, 3, 10, 200]), batch=st.sampled_from([0, 1, 5]), saturated=st.booleans(),
       seed=st.integers(0, 100))
def test_images_are_admissible_pixels(kind: str, norm: str, eps: float, classes: int, batch: int, saturated: bool,
                                      seed: int) -> None:
    if kind == "APGD":
        classes = max(classes, 4)
    model, x = Linear(classes), grey(batch, 0.5, seed)
    x = x.round() if saturated else x
    y = torch.randint(classes, (batch,), generator=generator(seed))
    attack = MAKERS[kind](norm, eps)
    found = attack(model, x, y, generator(seed))
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert ((found >= 0) & (found <= 1)).all()
    if attack.threat is not None:
        assert (attack.threat.distance(found - x) <= eps + 1e-6).all()
    unchanged = (found == x).flatten(1).all(1)
    assert (unchanged | ~right(model, found, y)).all()


# --- values -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("attack", "label"), [
    (AutoAttack(LINF), "AutoAttack(L_inf 2/255, standard)"),
    (AutoAttack(L2, "rand"), "AutoAttack(L2 0.25, rand)"),
    (AutoAttack(LINF, steps=10), "AutoAttack(L_inf 2/255, standard, 10 steps)"),
    (AutoAttack(LINF, "apgd"), "APGD-CE + APGD-T(L_inf 2/255, 100 steps, 3 targets)"),
    (AutoAttack(LINF, "apgd-ce", 20), "APGD-CE(L_inf 2/255, 20 steps)"),
    (FAB("Linf", 2 / 255), "FAB(L_inf 2/255, 100 steps, 1 restart)"),
    (FAB("L2", None, 50), "FAB(unbounded L2, 50 steps, 1 restart)"),
    (FAB("Linf"), "FAB(unbounded L_inf, 100 steps, 1 restart)"),
    (FAB("L2", 0.5, 50, 3), "FAB(L2 0.5, 50 steps, 3 restarts)"),
])
def test_repr_is_the_label_of_tables(attack: AutoAttack | FAB, label: str) -> None:
    assert repr(attack) == label


def test_the_threat_of_fab_is_its_ball_or_none() -> None:
    assert FAB("L2", 0.5).threat == ThreatModel("L2", 0.5)
    assert FAB("L2").threat is None
    assert replace(FAB("L2", 0.5), eps=None).threat is None


def test_a_strong_pgd_and_autoattack_agree_on_a_standard_network(network_pair: Pair, planted_test: PlantedSet) -> None:
    """Two searches written apart: at most 10 of 100 verdicts differ, and APGD with targets is not the weaker one."""
    pgd = evaluate(network_pair[0], planted_test, PGD(LINF, 40, LINF.eps / 4, loss="margin")).correct
    apgd = evaluate(network_pair[0], planted_test, AutoAttack(LINF, "apgd", 40)).correct
    assert (pgd != apgd).sum() <= 10
    assert apgd.sum() <= pgd.sum() + 1


@pytest.mark.parametrize(("version", "classes", "left_out"), [
    ("standard", 2, ["APGD-T left out: needs 4 classes, here are 2"]),
    ("apgd", 3, ["APGD-T left out: needs 4 classes, here are 3"]),
    ("rand", 2, ["APGD-DLR left out: needs 3 classes, here are 2"]),
    ("rand", 3, []), ("standard", 4, []), ("apgd-ce", 2, [])])
def test_attacks_that_need_more_classes_step_aside_by_name(version: str, classes: int, left_out: list[str]) -> None:
    attack, model = AutoAttack(LINF, version, 2, classes), Linear(classes)
    assert [part for part in repr(attack)[:-1].split(", ") if "left out" in part or "here are" in part] == [
        part for line in left_out for part in line.split(", ")]
    x = grey(6)
    y = model(x).argmax(1)
    assert (attack(model, x, y, generator()) - x).abs().max() <= LINF.eps + 1e-6
