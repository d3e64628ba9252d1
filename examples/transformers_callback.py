"""Trains a small GPT-2 with far too high a learning rate, watched by a callback of the Trainer.

    pip install "netdoctor-torch[transformers]"
    python examples/transformers_callback.py

Nothing is downloaded: the model is made from a configuration, the text is counting.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from netdoctor_transformers import NetDoctorCallback

torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
)
texts = (torch.arange(256)[:, None] + torch.arange(16) * torch.randint(1, 5, (256, 1))) % 64
examples = [{"input_ids": text, "labels": text} for text in texts]
trainer = Trainer(
    model,
    TrainingArguments(
        "gpt2",
        max_steps=150,
        per_device_train_batch_size=16,
        learning_rate=3.0,
        eval_strategy="steps",
        eval_steps=50,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=examples,
    eval_dataset=examples[:64],
    callbacks=[NetDoctorCallback()],
)
trainer.train()
