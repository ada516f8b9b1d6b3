"""Whole programs that are right, with one mistake put in: it is found, through functions, classes and loaders."""

from pathlib import Path

import pytest

from tests.jaxrnn.doctor.common import found

CORRECT = Path(__file__).parent / "correct"

# program, what is right, the mistake in its place, the rules
MUTANTS = [
    ("language_model", "state = cut_off(state)", "", "state-not-detached"),
    ("language_model", "optimizer.zero_grad()", "", "gradients-not-zeroed"),
    (
        "language_model",
        "loss.backward()\n        nn.utils.clip_grad_norm_(model.parameters(), clip)",
        "nn.utils.clip_grad_norm_(model.parameters(), clip)\n        loss.backward()",
        "clipping-order",
    ),
    (
        "language_model",
        "return self.decoder(self.drop(output)), state",
        "return self.decoder(self.drop(output)).softmax(-1), state",
        "probabilities-for-logits",
    ),
    ("tagger", ", padding_value=NO_TAG", "", "padding-in-loss"),
    ("tagger", "ignore_index=NO_TAG", "ignore_index=PAD", "padding-in-loss"),
    ("tagger", "padding_idx=PAD", "padding_idx=1", "other-padding-token"),
    (
        "tagger",
        "words, batch_first=True, padding_value=PAD",
        "words, padding_value=PAD",
        "batch-first-mismatch",
    ),
    (
        "tagger",
        "self.dropout(output))",
        "self.dropout(output)[:, -1])",
        "last-step-of-padding last-step-of-bidirectional",
    ),
    (
        "tagger",
        "        packed = ragged.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)\n"
        "        output, _ = self.rnn(packed)\n"
        "        output, _ = ragged.pad_packed_sequence(output, batch_first=True, total_length=words.size(1))\n",
        "        output = torch.cat([*self.rnn(x)[1][0][-2:]], dim=1)\n",
        "last-step-of-padding",
    ),
    ("tagger", "optimizer.zero_grad(set_to_none=True)", "pass", "gradients-not-zeroed"),
    (
        "translator",
        "torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)",
        "hidden[-1, :, :]",
        "one-direction-of-state",
    ),
    ("translator", "model.train()", "", "dropout-off-in-training"),
    (
        "translator",
        "train_epoch(model, loader, optimizer, criterion, clip=1.0)\n        schedule.step()",
        "schedule.step()\n        train_epoch(model, loader, optimizer, criterion, clip=1.0)",
        "schedule-before-step",
    ),
    ("translator", "F.dropout(seen, 0.1, self.training)", "F.dropout(seen, 0.1)", "dropout-always-on"),
    ("forecaster", "dropout=dropout if num_layers > 1 else 0", "dropout=dropout", "dropout-of-one-layer"),
    (
        "forecaster",
        "self.num_layers * self.directions, x.size(0), self.hidden",
        "x.size(0), self.num_layers * self.directions, self.hidden",
        "state-batch-first",
    ),
    (
        "forecaster",
        "nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)\n                self.scaler.step(self.optimizer)",
        "self.scaler.step(self.optimizer)\n                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)",
        "clipping-order",
    ),
    (
        "classifiers",
        "h_n[-1].transpose(0, 1).reshape(x.size(0), -1)",
        "h_n[-1]",
        None,  # the layers' states were told apart before: nobody knows what this is
    ),
    (
        "classifiers",
        "        h_n = h_n.view(self.rnn.num_layers, 2, x.size(0), 16)\n"
        "        both = h_n[-1].transpose(0, 1).reshape(x.size(0), -1)",
        "        both = h_n.view(x.size(0), -1)",
        "state-reshaped",
    ),
    (
        "classifiers",
        "log_softmax(self.fc(both), dim=-1)",
        "self.fc(both).softmax(-1)",
        "probabilities-for-logits",
    ),
    (
        "port",
        "torch.cat([h_n[-2], h_n[-1]], dim=-1)",
        "self.rnn(x)[0][:, -1]",
        "last-step-of-bidirectional",
    ),
    ("port", "jaxrnn.optim.adamw(1e-3)", "optax.adamw(1e-3)", "optimizer-defaults"),
    ("port", "cudnn.allow_tf32 = False", "cudnn.allow_tf32 = True", "tf32-in-reference"),
    (
        "port",
        "jnp.concatenate([h_n[-2], h_n[-1]], axis=-1)",
        "h_n[-1]",
        "one-direction-of-state",
    ),
]


@pytest.mark.parametrize(("name", "right", "wrong", "rule"), MUTANTS)
def test_a_mistake_in_a_whole_program_is_found(name, right, wrong, rule, tmp_path):
    text = (CORRECT / f"{name}.py").read_text("utf-8")
    assert right in text
    assert set(found(tmp_path, text.replace(right, wrong))) == set((rule or "").split())


def test_evaluation_without_eval_is_found_in_a_whole_program(tmp_path):
    text = (CORRECT / "language_model.py").read_text("utf-8")
    text = text.replace("    model.train()\n", "").replace("    model.eval()\n", "")
    assert set(found(tmp_path, text)) == {"dropout-in-evaluation"}
