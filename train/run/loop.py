"""The pretraining run: from stores to checkpoints, stopped and resumed at any step."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from amma.manifests.console import Advance, progress, say
from amma.manifests.errors import CheckpointError
from amma.manifests.files import write_json_atomically
from amma.manifests.table import Modality
from amma.train.data.channel_moments import measure_moments
from amma.train.data.loader import Loader
from amma.train.data.packing import Packer
from amma.train.data.position_profile import PositionProfile, measure_profiles
from amma.train.data.streams import Portion
from amma.train.data.training_set import TrainingSet, prepare_training_set
from amma.train.model.family import make_model, make_objective
from amma.train.run.agreement import Agreement, choose_batches
from amma.train.run.arithmetic import arithmetic, find_device, one_thread
from amma.train.run.checkpoint import PREFIX, Snapshot
from amma.train.run.clock import Clock
from amma.train.run.config import RunConfig
from amma.train.run.folder import RunFolder, read_split
from amma.train.run.headline import headline
from amma.train.run.initial import Initial, take_over
from amma.train.run.interruption import Interruption
from amma.train.run.log import RunLog
from amma.train.run.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, set_lr
from amma.train.run.schedule import StepDecay, last_step
from amma.train.run.step import StepError, StepNumbers, Stepper, StepResult
from amma.train.run.step_input import StepInput, prepare_step
from amma.train.run.tally import EpochTally
from amma.train.run.tensorboard import TensorBoard, check_installed
from amma.train.run.validation import ValidationInput, donors, prepare_validation, validate

Item = TypeVar("Item")

MOST_LOADER_THREADS = 4


@dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended: `exit_code` is 0, or 128 + the signal that stopped it."""

    step: int
    last_step: int
    checkpoint: Path | None
    exit_code: int


def pretrain(config: RunConfig, run_dir: Path) -> Outcome:
    """Begin the run of `config` in `run_dir`, or go on with it where its newest sound checkpoint is.

    On one device with the same number of threads, a run that was stopped and resumed is the run that was not, to the
    bit. Raises `LossError` in the step in which a loss or gradient is not finite.
    """
    device = find_device(config.device)
    if config.tensorboard:
        check_installed()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run_dir))
        interruption = Interruption()
        stack.enter_context(interruption)
        threads = stack.enter_context(arithmetic(config.threads, device))
        training_set = prepare_training_set(config, read_split(run_dir))
        stack.callback(training_set.corpus.close)
        initial, training_set = take_over(config, training_set)
        folder.claim(config, training_set.inputs, training_set.split)
        run = Run(config, folder, training_set, device=device, threads=threads, interruption=interruption)
        return (
            run.train() if run.restore() or run.begin(initial) else Outcome(0, run.last, None, interruption.exit_code)
        )


class Run:
    """A run between its checkpoints: model, optimizer, and how far it is."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        training_set: TrainingSet,
        *,
        device: torch.device,
        threads: int,
        interruption: Interruption,
    ) -> None:
        self._config = config
        self._folder = folder
        self._set = training_set
        self._device = device
        self._arithmetic_threads = threads
        self._loader_threads = min(threads, MOST_LOADER_THREADS)
        self._pack = Packer(device)
        self._interruption = interruption
        self._steps_per_epoch = training_set.mix.steps_per_epoch
        self.last = last_step(epochs=config.epochs, steps_per_epoch=self._steps_per_epoch, max_steps=config.max_steps)
        rate = config.optimizer
        self._schedule = StepDecay(rate.lr, rate.lr_gamma, rate.lr_step_epochs, self._steps_per_epoch)
        torch.manual_seed(config.seed)
        self._model = make_model(config.model, training_set.corpus.widths)  # drawn on the host: the same on any device
        self._step = 0
        self._epochs_closed = 0
        self._saved_step = -1
        self._tally = EpochTally()
        self._best: dict[str, Any] | None = None
        self._metrics: dict[str, Any] | None = None
        self._clock = Clock()
        self._note = ""
        self._donors = donors(training_set.validation)
        self._watched = choose_batches(training_set.validation, seed=config.seed)
        self._profiles: dict[Modality, PositionProfile] | None = None  # measured at the first validation of a process

    def begin(self, initial: Initial | None) -> bool:
        """Save what the run begins with as step 0; False if it was told to stop meanwhile.

        It begins with random weights and the measured features, or with another run's weights and standardiser.
        """
        if initial is not None:
            self._model.load_state_dict(dict(initial.tensors))
        elif not self._measure():
            return False
        self._start_stepping()
        self._folder.checkpoints.sweep()
        self._open_log(keep=0)
        self._log.write({"kind": "start", "step": 0, **self._set.counts, "steps_per_epoch": self._steps_per_epoch})
        self._save(best=False)
        return True

    def _measure(self) -> bool:
        """Fit the standardiser to the training proteins; False if it was told to stop meanwhile."""
        with progress("measuring channels", len(self._set.proteins_T), unit="proteins") as advance:
            moments = measure_moments(
                self._set.corpus,
                self._set.proteins_T,
                threads=self._loader_threads,
                advance=advance,
                stop=lambda: bool(self._interruption),
            )
        if moments is None:
            return False
        for modality, measured in moments.items():
            self._model.standardiser.fit(modality, measured)
        return True

    def restore(self) -> bool:
        """Take over the newest sound checkpoint; False if there is none."""
        checkpoints = self._folder.checkpoints
        checkpoints.sweep()
        found = checkpoints.load_newest()
        if found is None:
            return False
        newest, snapshot = found
        state = snapshot.state
        self._model.load_state_dict(dict(snapshot.model))
        self._start_stepping()
        moments = {name: value for name, value in snapshot.training.items() if not name.startswith("rng/")}
        restore_optimizer(self._model, self._stepper.optimizer, moments)
        self._step, self._epochs_closed = state["step"], state["epoch"]
        if state["streams"] != self._set.mix.state(self._step):
            raise CheckpointError(
                f"{newest}: at step {self._step} the streams stood at {state['streams']}, and by the plan of this "
                f"version at {self._set.mix.state(self._step)}. Use the version of amma that began the run."
            )
        self._tally = EpochTally.from_json(state["tally"])
        self._best, self._metrics = state["best"], state["metrics"]
        torch.set_rng_state(snapshot.training["rng/cpu"])
        if self._device.type == "cuda" and "rng/cuda" in snapshot.training:
            torch.cuda.set_rng_state(snapshot.training["rng/cuda"], self._device)
        # Only now, when nothing can fail any more, is what lies after the checkpoint taken back.
        checkpoints.abandon_after(newest)
        checkpoints.point("latest", newest)
        if self._best is not None:
            best = newest.with_name(f"{PREFIX}{self._best['step']:08d}")
            if best.is_dir():
                checkpoints.point("best", best)
            else:
                self._best = None  # its folder was damaged: the next validation gives a new one
        self._saved_step = self._step
        self._open_log(keep=state["log_bytes"])
        before, now = (state["device"], state["threads"]), (self._device.type, self._arithmetic_threads)
        if before != now:
            say(f"before: {before[0]}, {before[1]} threads; now: {now[0]}, {now[1]}: the same run, but for rounding")
        return True

    def train(self) -> Outcome:
        """Train until the last step or a signal; what was done by then is saved."""
        if self._step >= self.last and not self._epoch_is_due:
            say(f"the run is finished: {self._step} steps. Raise --epochs or --max-steps to go on.")
            return self._outcome()
        if self._step:
            say(f"going on at step {self._step} of {self.last}, in epoch {self._step // self._steps_per_epoch + 1}")
        steps = max(self.last - self._step, 0)
        with self._loader(self._training_input, self._set.mix.plan, self._step, self.last) as inputs:
            self._clock.start(lambda: inputs.waited)
            with progress("training", steps, unit="steps") as advance:
                try:
                    self._take_steps(iter(inputs), advance)
                except StepError as fault:
                    latest = self._folder.checkpoints.pointed("latest")
                    report = {**fault.report, "last_checkpoint": latest.name if latest else None}
                    write_json_atomically(self._folder.failed_batch, report)
                    say(f"the proteins of this step, and their places in the streams: {self._folder.failed_batch}")
                    raise
        return self._outcome()

    @property
    def _epoch_is_due(self) -> bool:
        return self._step >= (self._epochs_closed + 1) * self._steps_per_epoch

    def _take_steps(self, inputs: Iterator[StepInput], advance: Advance) -> None:
        # On a device the numbers of a step are read while the next one is computed already.
        pending: StepResult | None = None
        lag = reads_late(self._device)
        while True:
            interrupted = bool(self._interruption)  # looked at once: it may change at any moment
            stops = interrupted or self._step >= self.last
            saves = self._step % self._config.checkpoint_every == 0
            if pending is not None and (stops or saves or self._epoch_is_due):
                self._account(pending.read())
                pending = None
            if self._epoch_is_due and not interrupted:
                self._close_epoch()
                continue
            if stops or saves:
                self._save(best=False)
            if stops:
                return
            set_lr(self._stepper.optimizer, self._schedule.at(self._step))
            result = self._stepper.take(next(inputs))
            self._step += 1
            if pending is not None:
                self._account(pending.read())
            if lag:
                pending = result
            else:
                self._account(result.read())
            advance(1, self._note)

    def _account(self, numbers: StepNumbers) -> None:
        """Take a finished step into the epoch's sums and the log."""
        numbers.add_to(self._tally)
        step = numbers.given.step
        self._clock.count(numbers.num_tokens)
        self._note = f"loss {numbers.loss:.4f}, {self._clock.note()}"
        if step % self._config.log_every == 0:
            self._log.write(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": step // self._steps_per_epoch + 1,
                    "loss": numbers.loss,
                    "gradient_norm": numbers.gradient_norm,
                    "lr": self._schedule.at(step),
                    "drawn": {str(portion.stream): len(portion.draws) for portion, _, _ in numbers.given.portions},
                }
            )

    def _close_epoch(self) -> None:
        """Validate, write the epoch's line, save, and begin new sums."""
        timing = self._clock.lap()
        result = None
        if self._set.validation:
            if self._profiles is None:
                self._profiles = self._measure_profiles() if self._stepper.objective.masked else {}
            validation = self._set.validation
            with self._loader(self._validation_input, lambda n: validation[n : n + 1], 0, len(validation)) as inputs:
                agreement = Agreement(self._watched, seed=self._config.seed)
                result = validate(self._stepper, inputs, self._profiles, agreement, self._step)
        self._epochs_closed += 1
        summary = self._tally.summary(self._stepper.objective.expected(self._model))
        self._metrics = {"train": summary, "validation": asdict(result) if result else None}
        self._log.write(
            {
                "kind": "epoch",
                "epoch": self._epochs_closed,
                "step": self._step,
                "lr": self._schedule.at(self._step - 1),
                **summary,
                "validation": self._metrics["validation"],
                "timing": timing,
            }
        )
        say(headline(self._epochs_closed, self._config.epochs, summary, result))
        self._tally = EpochTally()
        best = result is not None and (self._best is None or result.loss < self._best["loss"])
        if best and result is not None:
            self._best = {"step": self._step, "epoch": self._epochs_closed, "loss": result.loss}
        self._saved_step = -1
        self._save(best=best)
        self._clock.lap()

    def _measure_profiles(self) -> dict[Modality, PositionProfile]:
        standardiser = self._model.standardiser
        return measure_profiles(self._set.corpus, self._set.proteins_T, standardiser, threads=self._loader_threads)

    def _save(self, *, best: bool) -> None:
        if self._saved_step == self._step:
            return
        rng = {"rng/cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            rng["rng/cuda"] = torch.cuda.get_rng_state(self._device)
        corpus = self._set.corpus
        state = {
            "step": self._step,
            "epoch": self._epochs_closed,
            "steps_per_epoch": self._steps_per_epoch,
            "streams": self._set.mix.state(self._step),
            "tally": self._tally.as_json(),
            "best": self._best,
            "metrics": self._metrics,
            "config": self._config.model_dump(mode="json"),
            "inputs": self._set.inputs,
            "proteins": self._set.counts,
            "widths": {str(modality): width for modality, width in corpus.widths.items()},
            "random_weights": corpus.random_weights,
            "device": self._device.type,
            "threads": self._arithmetic_threads,
            "log_bytes": self._log.sync(),
            "versions": {
                "amma": version("amma"),
                "numpy": np.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
        }
        training = {**optimizer_tensors(self._model, self._stepper.optimizer), **rng}
        snapshot = Snapshot(state, _on_host(self._model.state_dict()), _on_host(training))
        self._folder.checkpoints.save(snapshot, seen=self._folder.seen, best=best)
        self._saved_step = self._step

    def _start_stepping(self) -> None:
        config = self._config
        self._model.to(self._device)
        self._stepper = Stepper(
            self._model,
            make_optimizer(self._model, config.optimizer),
            make_objective(config.model.family, config.objective),
            device=self._device,
            clip=config.optimizer.clip,
            bf16=config.precision == "bf16",
        )

    def _open_log(self, *, keep: int) -> None:
        self._set.seen.write(self._folder.seen)
        folder = self._folder.log.with_name("tensorboard")
        shown = TensorBoard(folder, after=self._step) if self._config.tensorboard else None
        self._log = RunLog(self._folder.log, keep=keep, shown=shown)

    def _loader(
        self, make: Callable[[int], Item], plan: Callable[[int], Sequence[Portion]], start: int, stop: int
    ) -> Loader[Item]:
        def announce(number: int) -> None:
            for portion in plan(number):
                self._set.corpus.will_need([draw.protein for draw in portion.draws], portion.modalities)

        threads = self._loader_threads
        return Loader(make, start, stop, threads=threads, ahead=2 * threads, begin=one_thread, announce=announce)

    def _training_input(self, step: int) -> StepInput:
        config = self._config
        plan = self._set.mix.plan(step)
        return prepare_step(self._set.corpus, plan, step, seed=config.seed, mask=config.masks, pack=self._pack)

    def _validation_input(self, number: int) -> ValidationInput:
        config = self._config
        portion, donor = self._set.validation[number], self._donors[number]
        return prepare_validation(
            self._set.corpus,
            portion,
            donor,
            number,
            seed=config.seed,
            mask=config.masks,
            pack=self._pack,
            controls=self._stepper.objective.masked,
        )

    def _outcome(self) -> Outcome:
        latest = self._folder.checkpoints.pointed("latest")
        return Outcome(self._step, self.last, latest, self._interruption.exit_code)


def reads_late(device: torch.device) -> bool:
    """True where waiting for a step's numbers would keep the next step from being queued."""
    return device.type != "cpu"


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
