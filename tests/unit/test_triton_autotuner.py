"""Tuning of Triton's kernels: compiled at once, briefly measured, and otherwise as Triton has it.

Triton's own tuner, kernels and caches, on a machine that stands for one with a GPU.
"""

from __future__ import annotations

import inspect
import os
import threading
from types import SimpleNamespace

import pytest
import torch

from mimo_core.platforms.cuda import CudaPlatform
from mimo_core.platforms.triton import autotuner
from mimo_core.platforms.triton.autotuner import REPETITION, WARM_UP, TritonTuning, threads

triton = pytest.importorskip("triton", reason="comes with torch on Linux x86-64 alone")
tl = pytest.importorskip("triton.language")
compiler = pytest.importorskip("triton.compiler")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import _async_compile  # noqa: E402
from triton.runtime.autotuner import Autotuner  # noqa: E402
from triton.runtime.errors import OutOfResources, PTXASError  # noqa: E402

MILLISECONDS = {16: 3.0, 32: 1.0, 64: 2.0, 128: 4.0, 2048: 1.0, 4096: 2.0}
BROKEN, TOO_LARGE, PRUNED = 256, 512, 1024
MEASURED = [16, 32, 64, 128]
SIZES = (*MEASURED, BROKEN, TOO_LARGE, PRUNED)


def add_one(x, out, n, SIZE: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = True if EVEN else at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + 1, mask=inside)


def _size(src) -> int:
    return next(value for value in src.constants.values() if value in (*SIZES, *MILLISECONDS))


class Machine:
    """Driver, compiler and stopwatch: remembers what was asked of them, and when."""

    utils = SimpleNamespace(
        load_binary=lambda name, kernel, shared, device: (None, 0, 32, 0, 1024),
        get_device_properties=lambda device: {"max_shared_mem": 232448},
    )

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.measuring: list[dict[str, float]] = []
        self.together: threading.Barrier | None = None
        self.waiting = 0

    def wait_for(self, count: int) -> None:
        """The next so many that threads compile wait for one another."""
        self.together, self.waiting = threading.Barrier(count), count

    def of(self, kind: str) -> list[int]:
        return [size for event, size in self.events if event == kind]

    def compile(self, src, **_options):
        size = _size(src)
        self.events.append(("compiled", size))
        if self.together is not None and threading.current_thread() is not threading.main_thread():
            self.waiting -= 1
            if self.waiting >= 0:
                # Breaks, and so fails, where fewer are compiled at once than are tried.
                self.together.wait(1800)
        if size == BROKEN:
            raise PTXASError("no such instruction")
        return SimpleNamespace(
            run=lambda *args: self.launch(size),
            launch_metadata=lambda *args: None,
            function=None,
            packed_metadata=None,
        )

    def launch(self, size: int) -> None:
        self.events.append(("ran", size))
        if size == TOO_LARGE:
            raise OutOfResources(300_000, 232_448, "shared memory")

    def launcher_cls(self, src, _metadata):
        return lambda *args: self.launch(_size(src))

    def benchmark(self, call, quantiles, warmup=25, rep=100):
        call()
        size = self.events[-1][1]
        self.events.append(("measured", size))
        self.measuring.append({"warmup": warmup, "rep": rep})
        return [MILLISECONDS.get(size, 9.0)] * len(quantiles)

    def get_benchmarker(self):
        return self.benchmark

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device):
        return 0


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Triton as it is, for a GPU that is not here, with nothing in its cache."""
    machine = Machine()
    monkeypatch.setattr(triton.runtime.driver, "_active", machine)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in ("_bench", "prune_configs", "run"):
        monkeypatch.setattr(Autotuner, name, getattr(Autotuner, name))
    return machine


@pytest.fixture
def machine(gpu, monkeypatch):
    """The same, with a compiler that takes no time."""
    monkeypatch.setattr(compiler, "compile", gpu.compile)
    return gpu


def kernel(machine: Machine, *, sizes=SIZES, hooked: bool = True, **settings) -> Autotuner:
    """Under heuristics and the tuner; each call gives one that nothing was compiled of."""

    def configuration(size: int):
        hook = (lambda _: machine.events.append(("hooked", size))) if hooked else None
        return triton.Config({"SIZE": size}, pre_hook=hook)

    return triton.autotune(
        [configuration(size) for size in sizes],
        key=["n"],
        prune_configs_by={
            "early_config_prune": lambda configs, named, **_: [
                config for config in configs if config.kwargs["SIZE"] != PRUNED
            ]
        },
        **settings,
    )(triton.heuristics({"EVEN": lambda args: args["n"] % 2048 == 0})(triton.jit(add_one)))


def use(tuner: Autotuner, n: int = 4096, **more) -> None:
    x = torch.ones(n)
    tuner[(4,)](x, torch.empty(n), n, **more)


def tune(tuner: Autotuner) -> None:
    """By its first two uses."""
    use(tuner)
    use(tuner)


def test_the_first_use_is_launched_at_once_and_the_next_one_measures(machine):
    assert autotuner.understood(), "Triton's tuner has other parts: see triton_tuning.py"
    tuning = TritonTuning(threads=16)
    assert tuning.install()
    tried = [size for size in SIZES if size != PRUNED]
    machine.wait_for(len(tried) - 1)
    tuner = kernel(machine)
    use(tuner)
    assert machine.of("ran") == [16]
    assert tuner.best_config.kwargs == {"SIZE": 16}
    assert tuner.nargs is None

    use(tuner)
    first = machine.events.index(("measured", 16))
    # All were compiled, at once, before anything was measured.
    assert set(size for event, size in machine.events[:first] if event == "compiled") == set(tried)
    # Nothing that compiles is compiled twice. Triton 3.8 keeps the error of what fails; other
    # versions compile it again. All pass over it.
    assert set(machine.of("compiled")[len(tried) :]) <= {BROKEN}
    assert machine.of("measured") == MEASURED
    assert tuner.best_config.kwargs == {"SIZE": 32}

    told = tuning.told() or ""
    assert "(tunings: 1, configurations: 6, compiled at once: 16): add_one " in told
    assert tuning.told() is None
    use(tuner)
    assert machine.of("measured") == MEASURED
    assert tuning.told() is None


def test_kernels_are_compiled_beside_one_another(machine):
    """Two of them, each used once: more at once than either has configurations."""
    TritonTuning(threads=8).install()
    machine.wait_for(4)
    one, other = (kernel(machine, sizes=(16, *more)) for more in ((32, 64), (32, 128)))
    use(one)
    use(other)
    use(one)
    assert not machine.together.broken
    assert machine.of("measured") == [16, 32, 64]


def test_a_first_use_takes_the_smallest_block_or_what_can_be_launched(machine):
    TritonTuning(threads=2).install()
    tuner = kernel(machine, sizes=(64, 128, 16, 32))
    use(tuner)
    assert machine.of("ran") == [16]
    assert tuner.best_config.kwargs == {"SIZE": 16}
    for smallest in (BROKEN, TOO_LARGE):
        machine.events.clear()
        tuner = kernel(machine, sizes=(smallest, 2048, 4096))
        use(tuner)
        assert machine.of("measured") == [2048, 4096]
        assert tuner.best_config.kwargs == {"SIZE": 2048}


def test_another_shape_of_a_kernel_is_measured_at_once(machine):
    TritonTuning(threads=2).install()
    tuner = kernel(machine, sizes=(16, 32))
    use(tuner)
    use(tuner, n=2048)
    assert machine.of("measured") == [16, 32]
    use(tuner)
    assert machine.of("measured") == [16, 32] * 2


def test_triton_still_compiles_one_after_another(machine):
    """The reason for all this: take it out once Triton compiles them at once."""
    use(kernel(machine, sizes=(16, 32), hooked=False))
    assert machine.events[:6] == [
        *(("compiled", 16), ("ran", 16), ("measured", 16)),
        *(("compiled", 32), ("ran", 32), ("measured", 32)),
    ]


def test_the_choice_and_everything_around_it_are_triton_s(machine):
    def outcome(first):
        tuner = kernel(machine, restore_value=["x"])
        first(tuner)
        machine.events.clear()
        use(tuner)
        timings = {str(config): took for config, took in tuner.configs_timings.items()}
        rest = [event for event in machine.events if event[0] != "compiled"]
        return str(tuner.best_config), timings, tuple(tuner.cache), rest

    stock = outcome(lambda _: None)
    TritonTuning(threads=2).install()
    assert outcome(use) == stock


@pytest.mark.parametrize("settings", [{"reset_to_zero": ["out"]}, {"pre_hook": lambda *_, **__: 0}])
def test_a_kernel_whose_tuner_makes_its_outputs_ready_is_measured_at_once(machine, settings):
    """At its second use that would clear the sum that the first began."""
    TritonTuning(threads=2).install()
    use(kernel(machine, sizes=(16, 32), **settings))
    assert machine.of("measured") == [16, 32]


def test_nothing_is_measured_in_a_graph(machine):
    captured: list[bool] = []
    TritonTuning(threads=2, capturing=lambda: bool(captured)).install()
    tuner = kernel(machine, sizes=(16, 32))
    use(tuner)
    captured.append(True)
    use(tuner)
    use(kernel(machine, sizes=(16, 32), reset_to_zero=["out"]))
    assert machine.of("ran") == [16, 16, 16]
    captured.clear()
    use(tuner)
    assert machine.of("measured") == [16, 32]
    assert tuner.best_config.kwargs == {"SIZE": 32}


def test_what_cannot_be_launched_in_a_graph_is_told_in_triton_s_words(machine):
    TritonTuning(threads=2, capturing=lambda: True).install()
    for smallest, error in ((BROKEN, PTXASError), (TOO_LARGE, OutOfResources)):
        with pytest.raises(error):
            use(kernel(machine, sizes=(smallest, 2048)))


def test_a_tuner_of_another_kind_tunes_as_it_does(machine):
    class Own(Autotuner):
        def run(self, *args, **kwargs):
            self.nargs = dict(zip(self.arg_names, args, strict=False))
            for config in self.prune_configs(kwargs):
                self._bench(*args, config=config, **kwargs)

    TritonTuning(threads=2).install()
    tuner = kernel(machine, sizes=(16, 32))
    tuner.__class__ = Own
    use(tuner)
    assert machine.of("measured") == [16, 32]


def test_what_is_in_the_cache_is_neither_compiled_nor_measured(machine):
    TritonTuning(threads=2).install()
    tune(kernel(machine, hooked=False, cache_results=True))
    machine.events.clear()
    use(kernel(machine, hooked=False, cache_results=True))
    assert machine.events == [("compiled", 32), ("ran", 32)]


def test_measuring_is_brief_unless_the_kernel_says_how(machine):
    TritonTuning(threads=2).install()
    tuner = kernel(machine, sizes=(16, 32, 64))
    tune(tuner)
    assert machine.measuring == [
        {"warmup": 25, "rep": REPETITION},
        *[{"warmup": WARM_UP, "rep": REPETITION}] * 2,
    ]
    assert "do_bench" not in vars(tuner)
    machine.measuring.clear()
    tune(kernel(machine, sizes=(16, 32), do_bench=machine.benchmark))
    assert machine.measuring == [{"warmup": 25, "rep": 100}] * 2


def test_a_wrong_call_fails_as_ever_and_leaves_nothing_behind(machine):
    TritonTuning(threads=2).install()
    with pytest.raises(KeyError, match="nonsense"):
        use(kernel(machine), nonsense=1)
    machine.events.clear()
    tune(kernel(machine, sizes=(16, 32)))
    assert machine.of("measured") == [16, 32]


def test_compiling_ahead_that_breaks_off_leaves_tuning_as_it_is(machine, monkeypatch):
    called: list[str] = []

    def hook(**_compiled):
        called.append("compiled")
        # The first is that of the launch.
        if len(called) == 2:
            raise RuntimeError("a hook of the user's")

    TritonTuning(threads=2).install()
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", hook)
    tune(kernel(machine, sizes=(16, 32, 64)))
    assert len(called) >= 3
    assert _async_compile.active_mode.get() is None
    assert machine.of("measured") == [16, 32, 64]


def test_triton_s_own_compiler_works_in_threads(gpu, monkeypatch):
    TritonTuning(threads=2).install()
    by: list[str] = []
    monkeypatch.setattr(
        triton.knobs.compilation, "listener", lambda **_: by.append(threading.current_thread().name)
    )
    sizes = (16, 32, 64)
    tuner = kernel(gpu, sizes=sizes, hooked=False)
    tune(tuner)
    here, *elsewhere = by
    assert here == threading.current_thread().name
    assert [name.rpartition("_")[0] for name in elsewhere] == ["triton-compile"] * 2
    assert gpu.of("measured") == list(sizes)
    assert tuner.best_config.kwargs == {"SIZE": 32}


def test_ranks_on_gpus_tune_so_and_tell_it(machine, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/kept")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    platform = CudaPlatform(0, transformer_engine=False)
    assert platform.tuned() is None
    tune(kernel(machine, sizes=(16, 32)))
    assert (platform.tuned() or "").startswith("Triton tuned kernels for ")
    assert platform.tuned() is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    CudaPlatform(0, transformer_engine=False)
    tune(kernel(machine, sizes=(64, 128)))
    assert machine.of("measured") == [16, 32]


@pytest.mark.parametrize("part", ["AsyncCompileMode", "active_mode"])
def test_a_triton_of_other_parts_is_left_alone(machine, monkeypatch, part):
    monkeypatch.delattr(f"triton.runtime._async_compile.{part}")
    before = Autotuner._bench, Autotuner.prune_configs, Autotuner.run
    assert not TritonTuning(threads=2).install()
    assert (Autotuner._bench, Autotuner.prune_configs, Autotuner.run) == before


def test_nothing_is_done_without_triton(monkeypatch):
    monkeypatch.setattr(autotuner.importlib.util, "find_spec", lambda _name: None)
    tuning = TritonTuning(threads=2)
    assert not tuning.install()
    assert tuning.told() is None


@pytest.mark.parametrize(
    ("environ", "at_most", "expected"),
    [
        ({}, 1, 16),
        ({"WORLD_SIZE": "4"}, 4, 10),
        # On several machines, started by srun and by torchrun.
        ({"WORLD_SIZE": "64"}, 8, 5),
        ({"WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "2"}, 8, 16),
        ({"WORLD_SIZE": "64"}, 64, 1),
        # Several on a GPU, to try a layout.
        ({"WORLD_SIZE": "8"}, None, 5),
    ],
)
def test_ranks_of_a_machine_share_its_cores(monkeypatch, environ, at_most, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(40)))
    assert threads(environ, at_most) == expected


def test_what_is_found_lies_where_the_next_process_looks(monkeypatch, tmp_path):
    """torch's compiler would move it under /tmp with its first kernel, early or late."""
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    autotuner.keep_cache()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / ".triton" / "cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/shared/triton")
    autotuner.keep_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "/shared/triton"


def test_torch_still_moves_the_cache():
    from torch._inductor.runtime import triton_heuristics

    source = inspect.getsource(triton_heuristics)
    assert 'os.environ["TRITON_CACHE_DIR"] = triton_cache_dir' in source, "keep_cache can go"
