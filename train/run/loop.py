"""The pretraining run: from stores to checkpoints, stopped and resumed at any step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from amma.manifests.console import Advance, progress, say, silence
from amma.manifests.files import write_json_atomically
from amma.manifests.table import Modality
from amma.train.data.loader import Loader
from amma.train.data.packing import Packer
from amma.train.data.position_profile import PositionProfile, measure_profiles
from amma.train.data.share import Share
from amma.train.data.streams import Portion
from amma.train.data.training_set import TrainingSet
from amma.train.model.family import make_model
from amma.train.run.agreement import Agreement, choose_batches
from amma.train.run.arithmetic import arithmetic, one_thread
from amma.train.run.circumstances import Circumstances
from amma.train.run.clock import Clock
from amma.train.run.config import RunConfig
from amma.train.run.execution import make_stepper
from amma.train.run.folder import RunFolder
from amma.train.run.headline import headline
from amma.train.run.initial import Initial, fit_standardiser
from amma.train.run.interruption import Interruption
from amma.train.run.log import RunLog
from amma.train.run.opening import open_run, refuse_parts
from amma.train.run.optimizer import restore_optimizer, set_lr
from amma.train.run.ranks import Ranks, joined_processes, own_device
from amma.train.run.schedule import StepDecay, last_step
from amma.train.run.snapshot import find_snapshot, restore_random, take_back, take_snapshot
from amma.train.run.step import StepError, StepNumbers, StepResult
from amma.train.run.step_input import StepInput, prepare_step
from amma.train.run.tally import EpochTally
from amma.train.run.tensorboard import TensorBoard, check_installed
from amma.train.run.validation import ValidationInput, ValidationResult, donors, prepare_validation, validate

Item = TypeVar("Item")

MOST_LOADER_THREADS = 4


@dataclass(frozen=True)
class Outcome:
    """How a call of `pretrain` ended: `exit_code` is 0, or 128 + the signal that stopped it.

    `checkpoint` is the newest; None if there is none yet, and in all processes but the first.
    """

    step: int
    last_step: int
    checkpoint: Path | None
    exit_code: int


def pretrain(config: RunConfig, run_dir: Path) -> Outcome:
    """Begin the run of `config` in `run_dir`, or go on with it where its newest sound checkpoint is.

    On one device with the same number of threads and processes, a run that was stopped and resumed is the run that was
    not, to the bit. Raises `LossError` in the step in which a loss or gradient is not finite, `RankError` if another
    process of the run dies.
    """
    device = own_device(config.device)
    if config.tensorboard:
        check_installed()
    refuse_parts(config)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_processes(device, timeout=config.rank_timeout))
        if not ranks.is_first:
            stack.enter_context(silence())
        stack.enter_context(interruption := Interruption(several=ranks.size > 1, speaks=ranks.is_first))
        threads = stack.enter_context(arithmetic(config.threads, device))
        folder, training_set, initial = open_run(config, run_dir, ranks, stack)
        run = Run(config, folder, training_set, device=device, threads=threads, interruption=interruption, ranks=ranks)
        if run.restore() or run.begin(initial):
            outcome = run.train()
        else:
            outcome = Outcome(0, run.last, None, ranks.largest(interruption.exit_code))
        if outcome.exit_code:
            say(f"stopped at step {outcome.step} of {outcome.last_step}; the same command goes on from there")
        return outcome


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
        ranks: Ranks,
    ) -> None:
        self._config = config
        self._folder = folder
        self._set = training_set
        self._device = device
        self._ranks = ranks
        self._share = Share(ranks.rank, ranks.size, config.accumulate)
        self._circumstances = Circumstances(device.type, threads, ranks.size, config.accumulate)
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
        tensors = self._ranks.share(lambda: self._first_tensors(initial))
        if tensors is None:
            return False
        self._model.load_state_dict(dict(tensors))
        self._start_stepping()
        if self._ranks.is_first:
            self._folder.checkpoints.sweep()
            self._open_log(keep=0)
        self._write({"kind": "start", "step": 0, **self._set.counts, "steps_per_epoch": self._steps_per_epoch})
        self._save(best=False)
        return True

    def _first_tensors(self, initial: Initial | None) -> Mapping[str, Tensor] | None:
        if initial is not None:
            return initial.tensors
        fitted = fit_standardiser(
            self._model.standardiser, self._set, threads=self._loader_threads, stop=lambda: bool(self._interruption)
        )
        return self._model.state_dict() if fitted else None

    def restore(self) -> bool:
        """Take over the newest sound checkpoint; False if there is none."""
        found = self._ranks.share(lambda: find_snapshot(self._folder.checkpoints, self._set.mix))
        if found is None:
            return False
        newest, snapshot = found
        state = snapshot.state
        self._model.load_state_dict(dict(snapshot.model))
        self._start_stepping()
        moments = {name: value for name, value in snapshot.training.items() if not name.startswith("rng/")}
        restore_optimizer(self._model, self._stepper.optimizer, moments)
        restore_random(snapshot.training, self._device)
        self._step, self._epochs_closed = state["step"], state["epoch"]
        self._tally = EpochTally.from_json(state["tally"])
        self._best, self._metrics = state["best"], state["metrics"]
        self._saved_step = self._step
        if self._ranks.is_first:
            self._best = take_back(self._folder.checkpoints, newest, self._best)
            self._open_log(keep=state["log_bytes"])
        if (before := Circumstances.of(state)) != self._circumstances:
            say(f"before: {before}; now: {self._circumstances}: the same run, but for rounding")
        return True

    def train(self) -> Outcome:
        """Train until the last step or a signal; what was done by then is saved."""
        if self._step >= self.last and not self._epoch_is_due:
            say(f"the run is finished: {self._step} steps. Raise --epochs or --max-steps to go on.")
            return self._outcome()
        if self._step:
            say(f"going on at step {self._step} of {self.last}, in epoch {self._step // self._steps_per_epoch + 1}")
        steps = max(self.last - self._step, 0)
        with self._loader(self._training_input, self._plan, self._step, self.last) as inputs:
            self._clock.start(lambda: inputs.waited)
            with progress("training", steps, unit="steps") as advance:
                try:
                    self._take_steps(iter(inputs), advance)
                except StepError as fault:
                    self._report(fault)
        return self._outcome()

    def _report(self, fault: StepError) -> NoReturn:
        """Write what failed. The numbers of a step are the same on all processes, so all are here, and one tells."""
        fault = fault.with_all(self._ranks.gathered(fault.report))
        if self._ranks.is_first:
            latest = self._folder.checkpoints.pointed("latest")
            report = {**fault.report, "last_checkpoint": latest.name if latest else None}
            write_json_atomically(self._folder.failed_batch, report)
            say(f"the proteins of this step, and their places in the streams: {self._folder.failed_batch}")
        self._ranks.wait()
        if not self._ranks.is_first:
            raise SystemExit(fault.exit_code)
        raise fault

    @property
    def _epoch_is_due(self) -> bool:
        return self._step >= (self._epochs_closed + 1) * self._steps_per_epoch

    def _take_steps(self, inputs: Iterator[StepInput], advance: Advance) -> None:
        # On a device the numbers of a step are read while the next one is computed already.
        pending: StepResult | None = None
        lag = reads_late(self._device)
        while True:
            interrupted = self._ranks.any(bool(self._interruption))  # looked at once: it may change at any moment
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
        step = numbers.step
        self._clock.count(numbers.num_tokens)
        self._note = f"loss {numbers.loss:.4f}, {self._clock.note()}"
        if step % self._config.log_every == 0:
            self._write(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": step // self._steps_per_epoch + 1,
                    "loss": numbers.loss,
                    "gradient_norm": numbers.gradient_norm,
                    "lr": self._schedule.at(step),
                    "drawn": numbers.streams,
                }
            )

    def _close_epoch(self) -> None:
        """Validate, on all processes; then the first writes the epoch's line and saves, and all begin new sums."""
        timing = self._clock.lap()
        result = self._validate() if self._set.validation else None
        self._epochs_closed += 1
        self._saved_step = -1
        best = self._ranks.is_first and self._judge(result, timing)
        self._tally = EpochTally()
        self._save(best=best)
        self._clock.lap()

    def _validate(self) -> ValidationResult:
        if self._profiles is None and self._stepper.objective.masked:
            own = self._model.standardiser
            self._profiles = measure_profiles(self._set.corpus, self._set.proteins_T, own, threads=self._loader_threads)
        mine = range(self._ranks.rank, len(self._set.validation), self._ranks.size)
        plan = [self._set.validation[number] for number in mine]
        agreement = Agreement(self._watched, seed=self._config.seed)
        with self._loader(lambda n: self._validation_input(mine[n]), lambda n: plan[n : n + 1], 0, len(mine)) as inputs:
            return validate(self._stepper, inputs, self._profiles or {}, agreement, self._step, self._ranks)

    def _judge(self, result: ValidationResult | None, timing: dict[str, float]) -> bool:
        """Whether the weights are the best so far; what was found goes to the log."""
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
        best = result is not None and (self._best is None or result.loss < self._best["loss"])
        if best and result is not None:
            self._best = {"step": self._step, "epoch": self._epochs_closed, "loss": result.loss}
        return best

    def _save(self, *, best: bool) -> None:
        if self._saved_step == self._step:
            return
        if self._ranks.is_first:
            snapshot = take_snapshot(self._state(), self._model, self._stepper.optimizer, self._device)
            self._folder.checkpoints.save(snapshot, seen=self._folder.seen, best=best)
        self._saved_step = self._step
        self._ranks.wait()

    def _state(self) -> dict[str, Any]:
        corpus = self._set.corpus
        return {
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
            "log_bytes": self._log.sync(),
            **self._circumstances.as_json(),
        }

    def _start_stepping(self) -> None:
        self._model.to(self._device)
        self._stepper = make_stepper(self._model, self._config, self._device, self._ranks)

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

        def begin() -> None:
            one_thread()
            # Which GPU is the current one is a matter of the thread: in a new one it is the first.
            if self._device.type == "cuda" and self._device.index is not None:
                torch.cuda.set_device(self._device)

        threads = self._loader_threads
        return Loader(make, start, stop, threads=threads, ahead=2 * threads, begin=begin, announce=announce)

    def _write(self, record: dict[str, Any]) -> None:
        if self._ranks.is_first:
            self._log.write(record)

    def _plan(self, step: int) -> Sequence[Portion]:
        return self._share.of(self._set.mix.plan(step))

    def _training_input(self, step: int) -> StepInput:
        config = self._config
        plan = self._set.mix.plan(step)
        return prepare_step(
            self._set.corpus, plan, step, seed=config.seed, mask=config.masks, pack=self._pack, share=self._share
        )

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
        latest = self._folder.checkpoints.pointed("latest") if self._ranks.is_first else None
        return Outcome(self._step, self.last, latest, self._ranks.largest(self._interruption.exit_code))


def reads_late(device: torch.device) -> bool:
    """True where waiting for a step's numbers would keep the next step from being queued."""
    return device.type != "cpu"
