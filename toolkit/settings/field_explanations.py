"""Plain explanations of the settings that the schema describes in a few words only; the form shows them as help."""

from __future__ import annotations

_BNB, _ARGS, _SFT = "model.bitsandbytes.", "training.training_args.", "training.sft_args."

FIELD_EXPLANATIONS: dict[str, str] = {
    "data.path": "A file on this machine (CSV, JSON, JSONL, Parquet, Excel, gzip), or the ID of a dataset on the Hub.",
    "data.prompt": "The input of each example. {column} inserts that column's cell; write {{ for a literal brace.",
    "data.prompt_stub": "The answer that the model learns to give. {column} inserts that column's cell.",
    "data.train_size": "A fraction of the usable rows (0.8 is 80 %), or a number of rows.",
    "data.test_size": "A fraction of the usable rows (0.2 is 20 %), or a number of rows. The test set is not "
    "trained on.",
    "model.hf_model_ckpt": "A model ID on the Hugging Face Hub, a local folder, or the bundled demo model.",
    "model.device_map": "auto uses the GPUs if there are any; cpu uses the CPU only.",
    "model.quantize": "Quantized weights use a quarter to half of the memory. Needs bitsandbytes.",
    _BNB + "llm_int8_threshold": "Activations above this value are multiplied in 16 bits.",
    _BNB + "llm_int8_has_fp16_weight": "Keeps a 16-bit copy of the weights next to the 8-bit ones.",
    "lora.r": "Size of the adapter's matrices. A higher rank can learn more, but uses more memory.",
    "lora.lora_alpha": "The adapter's output is scaled by alpha / r. Twice the rank is a common choice.",
    "lora.lora_dropout": "Share of the adapter's inputs that are set to zero during training, against overfitting.",
    "lora.target_modules": "all-linear means every linear layer except the output layer.",
    "lora.layers_to_transform": "Limits the adapter to these layers, counted from 0.",
    "lora.layers_pattern": "Name of the list of layers inside the model, used together with the layer indexes.",
    "lora.fan_in_fan_out": "Needed for models that store weights as (in, out), such as GPT-2.",
    "lora.exclude_modules": "A module's name, such as down_proj, or a full path for a single layer's module.",
    "lora.target_parameters": "For experts that are stored as one tensor. A run says if they get no adapter.",
    "lora.trainable_token_indices": "For tokens that were added to the tokenizer: their embeddings are trained whole, "
    "and their rows of the output layer where the two share one weight. The token view shows the ids.",
    "lora.use_rslora": "Keeps the adapter's effect from shrinking with a high rank.",
    "lora.use_dora": "Often a little better at low ranks. Steps are slower, on a CPU about twice.",
    _ARGS + "weight_decay": "Share of the learning rate by which weights shrink at each step. Typical: 0 to 0.1.",
    _ARGS + "max_steps": "For quick trials: the run ends after this many weight updates, whatever the epochs say.",
    _ARGS + "num_train_epochs": "One epoch is one pass over the training set.",
    _ARGS + "learning_rate": "Step size of a weight update. Typical for LoRA: 1e-4 to 3e-4; the small demo "
    "model needs a higher rate.",
    _ARGS + "per_device_train_batch_size": "Examples per forward and backward pass. Smaller batches use less memory.",
    _ARGS + "gradient_accumulation_steps": "Batches whose gradients are added up before each weight update. "
    "Works like a larger batch, without using more memory.",
    _ARGS + "lr_scheduler_type": "How the learning rate changes during training.",
    _ARGS + "warmup_ratio": "Share of the steps in which the learning rate rises from 0 to its full value.",
    _ARGS + "optim": "The 8-bit and paged optimizers need bitsandbytes and use less memory.",
    _ARGS + "max_grad_norm": "Gradients with a larger norm are scaled down to this value (gradient clipping). "
    "0 turns clipping off.",
    _SFT + "neftune_noise_alpha": "Scale of the noise that is added to the embeddings. Typical: 5 to 15.",
    _ARGS + "bf16": "16-bit numbers with the range of fp32. Saves memory and time where the device supports it.",
    _ARGS + "fp16": "16-bit numbers with loss scaling, for GPUs without bf16.",
    _ARGS + "tf32": "Runs fp32 matrix products on the tensor cores of Ampere or newer GPUs: faster, slightly "
    "less precise.",
    _ARGS + "gradient_checkpointing": "Recomputes activations in the backward pass instead of storing them: less "
    "memory, slower steps.",
    "accelerate": "Starts one training process per GPU through Accelerate. No separate launch command is needed.",
    "shard_model": "Each process holds a part of every layer and gathers the rest while it computes: less memory for "
    "each GPU, slower steps. The adapter stays whole. No sample outputs are made during training.",
    "num_machines": "Each machine needs this toolkit, the same data and the same settings. Start the run on all of "
    "them: they wait for each other.",
    "machine_rank": "The main machine has 0, the others 1, 2 and so on. This is the only setting that differs.",
    "main_process_ip": "IP address or host name. The machines talk without a password or encryption: use a private "
    "network.",
    "main_process_port": "A port that the firewall lets through, for example 29500, the same on every machine.",
    _SFT + "max_seq_length": "Longer examples (prompt and completion together) are truncated to this length.",
    "inference.max_new_tokens": "Length of the longest answer that is generated.",
    "inference.do_sample": "Off: greedy decoding, always the most probable token. On: tokens are sampled at random.",
    "inference.temperature": "Below 1 the answers are more predictable, above 1 more varied.",
    "inference.top_p": "Samples from the most probable tokens whose probabilities add up to this value "
    "(nucleus sampling).",
    "inference.top_k": "Samples from this many of the most probable tokens.",
    "inference.epsilon_cutoff": "Tokens with a lower probability are not sampled.",
    "inference.eta_cutoff": "Like the epsilon cutoff, but lower when many tokens are about equally probable.",
    "inference.use_cache": "Caches the keys and values of earlier tokens, which makes generation faster.",
    "ablation.use_ablate": "Any setting can have several values. Each combination of values is one trial of the study.",
    "ablation.seeds": "Every combination is trained with the same seeds, so that differences are paired. With one "
    "seed, an effect can't be told from chance.",
    "ablation.objective": "Higher is better, except for the test loss, perplexity and the length difference, where "
    "lower is, and the length ratio, where closest to 1 is. Measures and pass rules are computed from the answers that "
    "a run gives to its test rows at its end. Perplexity is the exponential of the test loss. Another objective for "
    "the same study trains nothing again.",
    "ablation.pass_rules": "A list of rules as in a rules file of an evaluation, for example "
    '`[{"kind": "contains", "text": "Regards"}, {"kind": "length", "most": 200}]`; the kinds are contains, regex, '
    "json_schema and length. The objective is the share of answers that pass all of them.",
    "ablation.method": "Random search trains some of the combinations. TPE (tree-structured Parzen estimator) starts "
    "with random ones, then chooses each next one by the results so far. Both find a good combination in fewer runs "
    "than a grid; a grid judges each setting best. Both also take a range of numbers in place of a list, such as "
    "`1e-5..1e-3 log` or `4..64`; with log, the ratios are even.",
    "ablation.prune_losers": "When every combination has been trained with a seed, the better half (at least two) goes "
    "on with the next one, and the queued runs of the others are cancelled: 8 combinations with 4 seeds are 16 runs "
    "instead of 32. It finds the best values sooner. Losing combinations have fewer seeds, so more settings may stay "
    "undecided. Applies to a grid and to random search with several seeds.",
    "ablation.stop_when_decided": "When the verdict says of every setting that it matters or is within noise, the "
    "queued runs are cancelled. The intervals hold at every look, so stopping does not make the verdict less certain.",
    "save_dir": "Each run gets its own subfolder.",
    _ARGS + "logging_steps": "Steps between two points of the loss chart.",
}  # fmt: skip
