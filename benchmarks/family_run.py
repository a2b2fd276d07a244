"""One tiny family: its trained run, and checks against the plain libraries, each of which returns a table's cell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.tiny_families import FAMILIES, save_tiny_model
from tests.fakes.training import WORDS, draft, make_run, rows, train_here
from toolkit.data.examples.templates import Example
from toolkit.errors import ToolkitError
from toolkit.export.export_state import commit_hash, export_folder, export_job
from toolkit.export.prompt_contract import read_contract
from toolkit.runs.run_dir import RunDir, read_run_config, request_run_stop
from toolkit.system.background_job import StateFileReporter
from toolkit.worker.training.reporter import TrainingReporter

YES = "yes"
ROWS = 8
MAX_LENGTH = 1024
STRONG = {"initializer_range": 0.2}
"""Larger than usual: an output layer of small weights can't prefer a token, whatever an adapter learns."""
GRADIENT_TOLERANCE = 1e-3
"""Of the largest gradient: fused layers add in another order."""
LOGIT_TOLERANCE = 1e-3


class RunInterrupted(Exception):
    """A signal stopped a run, so that nothing can be said about it."""


class FamilyRun:
    """A random model of the family `name`, and a run on it of `steps` steps, all of them in the folder `place`."""

    def __init__(self, name: str, place: Path, steps: int) -> None:
        self.name, self.steps, self._place = name, steps, place
        self._chat = bool(FAMILIES[name].template)
        self._model = save_tiny_model(name, place / "model", **STRONG)
        self.run, self.problem = self._train(self._make_run("whole", self._model))

    def _make_run(self, folder: str, model: Path, **training: Any) -> RunDir:
        training = {"max_steps": self.steps, "save_steps": self.steps, "eval_steps": 1000, **training}
        settings = draft(self._place / folder, model, **training)
        settings["data"].update(train_size=ROWS, test_size=2)
        settings["model"]["device_map"] = "cpu"
        settings["lora"]["target_modules"] = list(FAMILIES[self.name].targets)
        settings["inference"] = {"max_new_tokens": 24}
        settings["training"].update(pinned_rows=0, sft_args={"max_seq_length": MAX_LENGTH})
        # few answers: a tiny model is to learn in few steps where they end
        cells = [{**row, "answer": f"{i % 2 + 1} {WORDS[i % 2]}"} for i, row in enumerate(rows(ROWS + 2))]
        return make_run(settings, cells)

    def _train(self, run: RunDir) -> tuple[RunDir, str]:
        """Train a run to its end; return it and why it failed, "" if it did not."""
        code, events = train_here(run)
        if code == 0 and events[-1]["kind"] != "finished":
            raise RunInterrupted(f"{self.name} was stopped at step {events[-1].get('step')}")
        return run, "" if code == 0 else str(events[-1].get("message", events[-1]))

    def _prepare_rows(self) -> tuple[list[Example], list[dict[str, list[int]]]]:
        """Return the training rows, and their ids and labels as the toolkit prepares them."""
        from toolkit.worker.models.load import load_tokenizer
        from toolkit.worker.tokens.labels import prepare_examples
        from toolkit.worker.tokens.prepared_rows import open_row_source

        config = read_run_config(self.run)
        source = open_row_source(self.run, config)
        examples = list(source.examples(source.plan.train))
        return examples, prepare_examples(examples, load_tokenizer(config), MAX_LENGTH, self._chat).table.to_pylist()

    def check_tokens(self) -> str:
        """Compare ids and labels with those of the tokenizer alone, joined as TRL joins prompt and completion."""
        tokenizer = AutoTokenizer.from_pretrained(self._model)
        for example, found in zip(*self._prepare_rows(), strict=True):
            if self._chat:
                asked = [{"role": "user", "content": example.prompt}]
                whole = [*asked, {"role": "assistant", "content": example.completion}]
                before = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
                ids = tokenizer.apply_chat_template(whole)["input_ids"]
            else:
                before = tokenizer(example.prompt)["input_ids"]
                ids = tokenizer(example.prompt + example.completion)["input_ids"] + [tokenizer.eos_token_id]
            if found["input_ids"] != ids:
                return f"other ids: {found['input_ids']} instead of {ids}"
            # a template may write other things before an answer than when it asks for one
            if ids[: len(before)] == before and found["labels"] != [-100] * len(before) + ids[len(before) :]:
                return f"other labels: {found['labels']}"
        return YES

    def check_gradients(self) -> str:
        """Compare one step of plain gradient descent: lora_B is then its gradient, and lora_A still as it began."""
        plain = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        # a router's own loss is a mean over a batch, which row by row has no equal; and dropout draws random numbers
        default = AutoConfig.for_model(self.name).to_dict()
        calm = {key: 0.0 for key, value in default.items() if "drop" in key and isinstance(value, float)}
        model = save_tiny_model(self.name, self._place / "calm", **STRONG, **calm, router_aux_loss_coef=0.0)
        step = self._make_run("one-step", model, max_steps=1, gradient_accumulation_steps=ROWS // 4, **plain)
        run, problem = self._train(step)
        if problem:
            return problem
        weights = safetensors.torch.load_file(run.adapter_dir / "adapter_model.safetensors")
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        peft = PeftModel.from_pretrained(base, str(run.adapter_dir), is_trainable=True)
        for name, parameter in peft.named_parameters():
            if ".lora_B" in name:
                parameter.data.zero_()
        _compute_gradients(peft, self._prepare_rows()[1])
        found, largest = 0.0, 0.0
        for name, parameter in peft.named_parameters():
            if ".lora_B" in name and parameter.grad is not None:
                saved = weights[name.replace(".default", "")]
                found = max(found, float((saved + parameter.grad).abs().max()))
                largest = max(largest, float(parameter.grad.abs().max()))
        near = largest > 0 and found <= GRADIENT_TOLERANCE * largest
        return YES if near else f"off by {found:.2g} of {largest:.2g}"

    def check_resume(self) -> str:
        """Pause the same run in its middle and resume it: the adapter is the same to the byte."""
        run, middle = self._make_run("resumed", self._model), self.steps // 2
        on_step_end = TrainingReporter.on_step_end

        def request_pause(reporter: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == middle:
                request_run_stop(run, pause=True)
            on_step_end(reporter, args, state, control, **more)

        with patch.object(TrainingReporter, "on_step_end", request_pause):
            _, events = train_here(run)
        if events[-1].get("step") != middle or not events[-1].get("paused"):
            raise RunInterrupted(f"{self.name} did not pause at step {middle}: {events[-1]}")
        (run.path / "stop").unlink()
        with patch.dict(os.environ, FTK_ATTEMPT="2"):
            _, problem = self._train(run)
        if problem:
            return problem
        one, other = ((each.adapter_dir / "adapter_model.safetensors").read_bytes() for each in (self.run, run))
        return YES if one == other else f"other weights after a pause at step {middle}"

    def check_engine(self) -> str:
        """Compare the logits of the adapter in plain PEFT with those of the engine, which Playground and API share."""
        from toolkit.worker.models.adapter_files import read_adapter
        from toolkit.worker.models.adapter_switch import AdapterSwitch
        from toolkit.worker.models.load import load_base_model

        base = AutoModelForCausalLM.from_pretrained(self._model, dtype=torch.float32)
        peft = PeftModel.from_pretrained(base, str(self.run.adapter_dir)).eval()
        switch = AdapterSwitch(load_base_model(read_run_config(self.run)).eval())
        switch.attach("a", *read_adapter(self.run.adapter_dir))
        switch.select("a")
        drift = 0.0
        with torch.no_grad():
            for golden in read_contract(self.run.adapter_dir).golden:
                ids = torch.tensor([golden.ids])
                drift = max(drift, float((peft(ids).logits - switch.model(ids).logits).abs().max()))
        return YES if drift <= LOGIT_TOLERANCE else f"logits differ by {drift:.2g}"

    def check_export(self, form: str) -> str:
        """Make an export and certify it against the answers that the run gave when it ended."""
        from toolkit.worker.export import make_export
        from toolkit.worker.replay import certify_export

        self.run.exports_dir.mkdir(exist_ok=True)
        try:
            make_export(self.run, form, StateFileReporter(export_job(self.run, form)))
        except ToolkitError as error:
            return f"refused: {error.message}"
        commit = commit_hash(export_folder(self.run, form))
        certificate = certify_export(self.run, form, read_contract(self.run.adapter_dir), commit)
        return YES if certificate.passed else "; ".join(f"{one.name}: {one.detail}" for one in certificate.failures)

    def check_stops(self) -> str:
        """Check that the trained model ends each of its answers itself."""
        contract = read_contract(self.run.adapter_dir)
        ended = sum(golden.answer_ids[-1] in contract.special_tokens.stops for golden in contract.golden)
        return YES if ended == len(contract.golden) else f"{ended} of {len(contract.golden)} answers end"


def _compute_gradients(model: Any, prepared: list[dict[str, list[int]]]) -> None:
    """Compute the gradients of the mean loss over all trained tokens, row by row."""
    trained = sum(label != -100 for row in prepared for label in row["labels"][1:])
    model.train()
    for row in prepared:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / trained
        loss.backward()
