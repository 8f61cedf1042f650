"""choose_backend(): ours before a provider, the least busy first, and a reason for each; never by order of listing."""

from hypothesis import given
from hypothesis import strategies as st

from serving.jobs.routing import BackendState, choose_backend

MODELS = ("emoji-3d", "flux-schnell")
backends = st.builds(
    BackendState,
    id=st.text("abc", min_size=1, max_size=3),
    model_ids=st.frozensets(st.sampled_from(MODELS)),
    is_local=st.booleans(),
    num_driven=st.integers(0, 3),
)
fleets = st.lists(backends, max_size=6, unique_by=lambda backend: backend.id)


def state(name: str, *, local: bool = True, driven: int = 0, models: tuple[str, ...] = ("emoji-3d",)) -> BackendState:
    return BackendState(name, frozenset(models), local, driven)


def test_ours_is_chosen_before_an_idle_provider() -> None:
    choice = choose_backend("emoji-3d", [state("a-provider", local=False), state("engine", driven=9)])
    assert choice.backend_id == "engine"
    assert choice.reasons == (
        "a-provider: passed over for engine (a provider, 0 driven)",
        "engine: chosen (ours, 9 driven)",
    )


def test_the_least_busy_is_chosen() -> None:
    assert choose_backend("emoji-3d", [state("a", driven=2), state("b", driven=1)]).backend_id == "b"


def test_between_equals_the_id_decides() -> None:
    assert choose_backend("emoji-3d", [state("b"), state("a")]).backend_id == "a"


def test_a_provider_is_better_than_nobody() -> None:
    fleet = [state("provider", local=False), state("engine", models=("flux-schnell",))]
    assert choose_backend("emoji-3d", fleet).backend_id == "provider"


def test_nobody_has_the_model_and_the_reasons_say_so() -> None:
    choice = choose_backend("sdxl", [state("b"), state("a")])
    assert choice.backend_id is None
    assert choice.reasons == ("a: does not have sdxl", "b: does not have sdxl")
    assert choose_backend("sdxl", []).backend_id is None


@given(fleets, st.sampled_from(MODELS), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_backends(fleet, model, random) -> None:
    shuffled = random.sample(fleet, len(fleet))
    assert choose_backend(model, shuffled) == choose_backend(model, fleet)


@given(fleets, st.sampled_from(MODELS))
def test_the_chosen_one_has_the_model_and_no_better_one_was_passed_over(fleet, model) -> None:
    choice = choose_backend(model, fleet)
    able = [backend for backend in fleet if model in backend.model_ids]
    assert len(choice.reasons) == len(fleet)
    assert (choice.backend_id is None) == (not able)
    for chosen in (backend for backend in able if backend.id == choice.backend_id):
        assert all((not b.is_local, b.num_driven) >= (not chosen.is_local, chosen.num_driven) for b in able)
