"""The codes of errors of the core, each with its cause and its remedy."""

from __future__ import annotations

from collections.abc import Mapping

ErrorCodes = Mapping[str, tuple[str, str]]
"""By code: what causes the error, and what to do."""

CODES: ErrorCodes = {
    "benchmark.no-trace": (
        "The file is no trace of a run, or is damaged.",
        "Give `profile/kernels-rank-N.json.gz` of a run with `--profile "
        "profile.torch_profiler=true`.",
    ),
    "benchmark.nothing-timed": (
        "The recipe trains no more iterations than are left out as warm-up.",
        "Raise `train.iterations` or lower `--warm`.",
    ),
    "benchmark.refused-place": (
        "The results or the run folders cannot be written to the place.",
        "Give another place.",
    ),
    "benchmark.too-few-gpus": (
        "The machine has fewer GPUs than the benchmark needs.",
        "Name a recipe that needs fewer.",
    ),
    "checkpoint.beyond-end": (
        "The checkpoint is of a later iteration than `train.iterations`.",
        "Raise it, or start a new run in another folder.",
    ),
    "checkpoint.damaged": (
        "A file of the checkpoint is not what was saved.",
        "Restore the file, or go back to the earlier checkpoint that the message names.",
    ),
    "checkpoint.foreign-content": (
        "A file of the checkpoint names code or files that no checkpoint holds.",
        "Use a checkpoint that this program saved; nothing of the file was run.",
    ),
    "checkpoint.frozen-weights": (
        "Frozen weights that the checkpoint leaves out are gone, or are others now.",
        "Put them back, or name their new place as `modules.NAME.pretrained_weights`.",
    ),
    "checkpoint.incomplete": (
        "The run folder holds no checkpoint that was saved completely.",
        "Give the folder of a run that has saved.",
    ),
    "checkpoint.not-found": (
        "There is no folder at the path.",
        "Give a run folder; a relative path starts at the working directory.",
    ),
    "checkpoint.not-loaded": (
        "The checkpoint could not be loaded.",
        "Do what the message says, or go back to the earlier checkpoint that it names.",
    ),
    "checkpoint.not-writable": (
        "Checkpoints cannot be written to the folder.",
        "Set `checkpoint.directory` to another folder, or `checkpoint.enabled` to false.",
    ),
    "checkpoint.other-format": (
        "The checkpoint has a format that this version does not read.",
        "Use the version of mimo-core that saved it.",
    ),
    "checkpoint.other-model": (
        "The checkpoint is of another model or training than the recipe.",
        "Use the values that it was saved with, or start a new run in another folder.",
    ),
    "checkpoint.other-run": (
        "Checkpoints of several runs are in one folder.",
        "Move those that do not belong to this run to another folder.",
    ),
    "checkpoint.other-tokenizer": (
        "The checkpoint was saved with another tokenizer.",
        "Use that tokenizer, or start a new run in another folder.",
    ),
    "checkpoint.unreadable": (
        "A file or folder of the checkpoint cannot be read.",
        "Correct its access, or move it to another folder.",
    ),
    "command.invalid-option": (
        "A word of the command line is not `KEY=VALUE` of an option.",
        "Write it in this form, such as `hidden_size=64`.",
    ),
    "command.not-text": (
        "An argument has bytes that the encoding of file names cannot read.",
        "Set `LC_ALL=C.UTF-8` or `PYTHONUTF8=1`.",
    ),
    "command.several-kinds": (
        "The hooks of the plugin are for several kinds.",
        "Give one of them by `--kind`; the message lists them.",
    ),
    "command.unknown-kind": (
        "There is no such kind of plugins.",
        "Use one of those that the message lists.",
    ),
    "data.encoder-not-fed": (
        "None of the samples that the dataset shows has a medium that an encoder reads.",
        "Correct the options of the data, such as the name of a field, or leave the encoder out.",
    ),
    "data.no-labels": (
        "No sample that the dataset shows has a token to learn.",
        "Mark the text to be learned, or raise `train.sequence_length` if truncation removes it.",
    ),
    "data.no-samples": (
        "The dataset has no samples to train on.",
        "Correct the options of the data.",
    ),
    "environment.few-open-files": (
        "A process may open too few files for a rank.",
        "Raise the limit with `ulimit -n`.",
    ),
    "environment.full-shared-memory": (
        "The folder of shared memory is full.",
        "Remove files of earlier programs there; in a container, give it more (`--shm-size`).",
    ),
    "environment.invalid-value": (
        "An environment variable has a value that it cannot have.",
        "Set one of the values that the message names, or unset the variable.",
    ),
    "environment.long-temporary-folder": (
        "The path of the temporary folder is too long for a socket.",
        "Set a shorter `TMPDIR`.",
    ),
    "environment.missing-variable": (
        "An environment variable that ranks need is not set.",
        "Start ranks by torchrun or srun, or set the variable that the message names.",
    ),
    "environment.no-loopback": (
        "Ranks of one machine cannot reach each other.",
        "Start the loopback interface: `ip link set lo up`.",
    ),
    "environment.system-error": (
        "The system refused something, such as access to a file.",
        "Correct what the message names.",
    ),
    "environment.unreadable-file": (
        "A file is no regular file, is too large, or the system refuses to read it.",
        "Give a regular file, and correct its access.",
    ),
    "export.at-checkpoint": (
        "The directory is inside a checkpoint, or has the name of one.",
        "Give a directory outside of checkpoints, with another name.",
    ),
    "export.exists": (
        "The directory to make exists.",
        "Give a new one.",
    ),
    "export.not-writable": (
        "The directory cannot be made.",
        "Give another one, or correct the access of its parent.",
    ),
    "export.refused-override": (
        "A word of the command line sets something that an export does not read.",
        "Only set places of directories: `modules.NAME.pretrained_weights`, or an option that "
        "names one.",
    ),
    "export.same-names": (
        "Tensors of several modules have the same name.",
        "Write the modules to separate directories with `--module`.",
    ),
    "export.unknown-module": (
        "The recipe has no such module.",
        "Use one of those that the message lists.",
    ),
    "launch.absent-ranks": (
        "Some ranks did not start in time.",
        "See the output of their machines.",
    ),
    "launch.clock-unreachable": (
        "A rank cannot read the clock of rank 0 for a profile.",
        "Open the ports of rank 0's machine to the others, or set `profile.enabled` to false.",
    ),
    "launch.other-files": (
        "Ranks read different data, tokenizers or weights.",
        "Give all machines the same files.",
    ),
    "launch.other-plugins": (
        "Ranks have different plugins or versions of packages.",
        "Install the same versions on all machines.",
    ),
    "launch.other-recipe": (
        "Ranks have different recipes.",
        "Give all ranks the same file and the same overrides.",
    ),
    "launch.other-store": (
        "A rank cannot read where rank 0 listens.",
        "Use the same version of mimo-core on all machines, and a `MASTER_PORT` for each run.",
    ),
    "launch.port-in-use": (
        "The port at which the ranks meet is in use.",
        "Set `MASTER_PORT` to a free port.",
    ),
    "launch.refused": (
        "Rank 0 refused a rank, whose number is taken or whose token is wrong.",
        "Give each rank its own `RANK`, and all the same `MIMO_TOKEN`.",
    ),
    "launch.restarts": (
        "`max_restarts` is set, but torchrun or srun started the ranks.",
        "Give it to torchrun, or have the scheduler requeue the job.",
    ),
    "launch.token": (
        "`MIMO_TOKEN` is too short, too long, or set on some ranks only.",
        "Set it to the same value on all machines, or on none.",
    ),
    "launch.unreachable": (
        "A rank cannot reach rank 0.",
        "See the output of rank 0, and open the ports between the machines.",
    ),
    "layout.colocated": (
        "`colocated` puts all modules on one rank, and the recipe gives one several.",
        "Leave the sizes of the grid out, or use another layout.",
    ),
    "layout.does-not-divide": (
        "A size of a grid does not divide what it splits.",
        "Choose one of the divisors that the message lists.",
    ),
    "layout.expert-view": (
        "The ranks of a pipeline stage cannot be split over `etp` x `ep`.",
        "Choose sizes whose product divides tp x cp x dp.",
    ),
    "layout.no-experts": (
        "`ep` is above 1 for a module without experts.",
        "Set `ep` to 1.",
    ),
    "layout.no-tiling": (
        "The grids overlap, or leave ranks without a module.",
        "Set the first ranks that the message names, or leave them out.",
    ),
    "layout.unsupported-size": (
        "The plugin does not support a size of its module's grid above 1.",
        "Set the size to 1, and use one of the sizes that the message lists.",
    ),
    "layout.world-size": (
        "Another number of ranks was started than the grids need.",
        "Start the number that the message names, or change the grids.",
    ),
    "megatron.conflict": (
        "Two settings of Megatron exclude each other.",
        "Leave one out.",
    ),
    "megatron.cuda-graphs": (
        "The module, its grid or other settings do not go with CUDA graphs as they are set.",
        "Do what the message says, or leave the fields `cuda_graph_*` out.",
    ),
    "megatron.engine-field": (
        "The engine sets this field of `TransformerConfig`.",
        "Set the key of the recipe that the message names, or leave the field out.",
    ),
    "megatron.plugin-field": (
        "The plugin of the module sets this field of `TransformerConfig`.",
        "Set the option of the plugin that the message names, or leave the field out.",
    ),
    "megatron.recomputation": (
        "The fields of activation recomputation do not fit each other.",
        "Set the fields that the message names together.",
    ),
    "megatron.refused-flag": (
        "A stock flag has no effect here, is set by the engine, or would break the run.",
        "Set what the message names instead, or leave the flag out.",
    ),
    "megatron.refused-value": (
        "A setting of Megatron cannot have this value here.",
        "Choose one of the values that the message names, or leave the setting out.",
    ),
    "megatron.unknown-field": (
        "`TransformerConfig` of megatron-core has no such field.",
        "Correct the name.",
    ),
    "megatron.unknown-flag": (
        "megatron-core has no such flag.",
        "Correct the name.",
    ),
    "platform.megatron-imported": (
        "A module of Megatron was imported before the platform for CPUs.",
        "Import Megatron inside of functions.",
    ),
    "platform.no-gpu": (
        "`MIMO_PLATFORM=cuda` is set, and there is no GPU that can be used.",
        "Unset it, or run on a machine with a GPU.",
    ),
    "platform.too-few-gpus": (
        "More ranks were started on a machine than it has GPUs.",
        "Start fewer ranks on it, or set what the message names.",
    ),
    "plugin.contract": (
        "A plugin states no contract version, or one that mimo-core does not offer.",
        "Install versions of both that fit, or correct `mimo_contract` in the plugin.",
    ),
    "plugin.dataset-failed": (
        "A dataset raised an error that names no sample.",
        "Report it to the author of the plugin; the message names file and line.",
    ),
    "plugin.differs-by-rank": (
        "A hook of a plugin returned different values on different ranks.",
        "Report it to the author of the plugin; the message names hook and values.",
    ),
    "plugin.disabled": (
        "A plugin that the recipe names is disabled.",
        "Enable it; the message says what disables it.",
    ),
    "plugin.hook-failed": (
        "A hook of a plugin raised an error.",
        "Report it to the author of the plugin; the message names file and line.",
    ),
    "plugin.import-failed": (
        "A plugin cannot be imported.",
        "Install what it lacks, or versions of it and of mimo-core that fit.",
    ),
    "plugin.missing-hook": (
        "A plugin does not implement a hook that its place in the recipe needs.",
        "Name a plugin that implements it; the message lists some.",
    ),
    "plugin.no-options": (
        "The plugin takes no options.",
        "Leave `options` out.",
    ),
    "plugin.no-packing": (
        "The plugin does not declare that its module runs packed samples.",
        "Leave `packing` out.",
    ),
    "plugin.no-padding-mask": (
        "The language model of a plugin has experts whose routers would count padding.",
        "Change the plugin as the message says.",
    ),
    "plugin.not-installed": (
        "There is no plugin of this name.",
        "Correct the name, or install the plugin; the message has the command.",
    ),
    "plugin.same-name": (
        "Two installed distributions have a plugin of the same name.",
        "Uninstall one; the message has the command.",
    ),
    "plugin.same-rng-prefix": (
        "Two modules have the same prefix of random streams.",
        "The plugin must make the prefix from the module's name.",
    ),
    "plugin.unknown-hook": (
        "A plugin implements a hook that does not exist.",
        "Correct the name of the function.",
    ),
    "plugin.unsaved-parameters": (
        "The sharded state dict of a plugin's module lacks parameters.",
        "Return every parameter from `sharded_state_dict`.",
    ),
    "plugin.weights-differ": (
        "Ranks that must hold the same weights hold others.",
        "Report it to the author of the plugin; if it begins during training, examine the machine.",
    ),
    "plugin.wraps-nothing": (
        "A plugin under `wrappers` wraps no hook there.",
        "Name a plugin that does; the message lists some.",
    ),
    "plugin.wrong-answer": (
        "A hook of a plugin returned something that the contract does not allow.",
        "Report it to the author of the plugin; the message names hook and value.",
    ),
    "plugin.wrong-batch": (
        "Hook `provide_batch` returned a batch that its module cannot read.",
        "Return the keys and shapes that the message names.",
    ),
    "plugin.wrong-context-call": (
        "Hook `provide_batch` gives its context other samples, or decodes media on a later stage.",
        "Only give it the samples of the call; where `first_stage` is false, use their metadata.",
    ),
    "plugin.wrong-edge": (
        "Hook `module_edges` returned an edge that cannot be in the graph.",
        "Report it to the author of the plugin; the message names the edge.",
    ),
    "plugin.wrong-forward": (
        "The tower or the projector of an encoder returned a wrong type, shape or width.",
        "Correct the forward that the message names, or hook `describe`.",
    ),
    "plugin.wrong-hook": (
        "A hook of a plugin has a signature or a mark that it cannot have.",
        "Change it as the message says.",
    ),
    "plugin.wrong-rows": (
        "An encoder returned rows of another shape than its description says.",
        "Correct hook `describe`, or the tower and projector of `build_submodule`.",
    ),
    "recipe.conflict": (
        "Two keys exclude each other.",
        "Change or leave out one of both.",
    ),
    "recipe.duplicate-key": (
        "A key is given twice.",
        "Keep one.",
    ),
    "recipe.empty-text": (
        "A text is empty.",
        "Give a value, or leave the key out.",
    ),
    "recipe.invalid-override": (
        "A word of the command line is not `key.path=value`.",
        "Write it in this form, such as `train.iterations=20`.",
    ),
    "recipe.invalid-value": (
        "A validator, such as one of a plugin's options, refuses a value.",
        "Do what the message says.",
    ),
    "recipe.invalid-yaml": (
        "The text is not valid YAML.",
        "Correct the line that is named.",
    ),
    "recipe.missing-key": (
        "A key that has no default is not given.",
        "Add it.",
    ),
    "recipe.module-name": (
        "A module has a name that Python, torch or Megatron cannot use.",
        "Rename the module.",
    ),
    "recipe.no-language-model": (
        "No module has the name `language`.",
        "Name the one language model `language`.",
    ),
    "recipe.no-mapping": (
        "There is a single value where the recipe needs keys.",
        "Write keys below it, or correct the path.",
    ),
    "recipe.no-star": (
        "An encoder does not feed the language model, or the language model feeds a module.",
        "Every module but the language model must feed the language model, once.",
    ),
    "recipe.not-a-multiple": (
        "A size is no multiple of what it is divided into.",
        "Use one of the numbers that the message names.",
    ),
    "recipe.not-an-encoder": (
        "A module other than `language` uses a plugin that makes a language model.",
        "Name the module `language`, or use the plugin of an encoder.",
    ),
    "recipe.not-found": (
        "There is no recipe of this name.",
        "Correct the path, or use a name of the package; the message lists them.",
    ),
    "recipe.nothing-trainable": (
        "All parts of all modules are frozen.",
        "Remove a part from a `freeze`.",
    ),
    "recipe.out-of-range": (
        "A number is too small or too large.",
        "Use one in the range.",
    ),
    "recipe.same-placeholder": (
        "Two modules have the same placeholder.",
        "The plugin must make it from the module's name or an option.",
    ),
    "recipe.too-large": (
        "The recipe has too many bytes or values.",
        "Shorten it.",
    ),
    "recipe.unknown-choice": (
        "A value is none of those that are allowed.",
        "Use one of those that the message lists.",
    ),
    "recipe.unknown-key": (
        "A key is unknown.",
        "Correct or remove it.",
    ),
    "recipe.unknown-module": (
        "The command line sets a key of a module that the recipe does not have.",
        "Correct the name; for a new module, set its `plugin` too.",
    ),
    "recipe.unreadable": (
        "The recipe cannot be read.",
        "Give a regular file of UTF-8 text.",
    ),
    "recipe.wrong-type": (
        "A value has the wrong type.",
        "Write a value of the expected type.",
    ),
    "run.disk-full": (
        "A disk is full.",
        "Free space, then resume the run.",
    ),
    "run.ended-early": (
        "All processes ended without an error, but before the end of the run.",
        "See the logs of the ranks.",
    ),
    "run.in-use": (
        "Another run is in the folder.",
        "Wait for its end, or give another `--run-dir`.",
    ),
    "run.steps-skipped": (
        "Too many steps in a row were skipped.",
        "Resume from the last checkpoint with the change that the message names.",
    ),
    "run.unusable-folder": (
        "The run folder, or a file in it, cannot be used as one.",
        "Give another `--run-dir`, or correct what the message names.",
    ),
    "sample.no-encoder": (
        "A sample has a medium that no encoder of the recipe reads.",
        "Add an encoder for its kind, or leave such media out of the data.",
    ),
    "sample.no-labels": (
        "A sample has no token to learn.",
        "Mark text to be learned, raise `train.sequence_length`, or leave such samples out.",
    ),
    "sample.no-positions": (
        "The plugin of an encoder cannot count the positions of a medium.",
        "Correct or leave out the sample that is named.",
    ),
    "sample.no-tokens": (
        "The tokenizer has no tokens for the text of a sample.",
        "Correct the text, or use a tokenizer that can read it.",
    ),
    "sample.too-long": (
        "A sample takes more positions than `train.sequence_length`.",
        "Raise it, make samples shorter, or set `data.overlength` to `truncate`.",
    ),
    "sample.undecodable": (
        "A medium of a sample cannot be decoded.",
        "Correct or remove the file that is named, or let the dataset skip broken samples.",
    ),
    "sample.wrong-medium": (
        "A medium has another type or shape than its encoder reads, or than its metadata says.",
        "Correct `Media.load` or `Media.shape` in the dataset.",
    ),
    "scaffold.folder-not-empty": (
        "The folder for the new plugin exists and is not an empty folder.",
        "Give another by `--directory`.",
    ),
    "scaffold.invalid-name": (
        "The name cannot be that of a plugin.",
        "Use small letters, digits and single hyphens, a letter first, and not too many.",
    ),
    "scaffold.name-in-use": (
        "An installed plugin has this name.",
        "Choose another name, or uninstall that plugin.",
    ),
    "testing.import-failed": (
        "The process in which the conformance kit imports the plugin ended early.",
        "Correct what its output shows.",
    ),
    "testing.unknown-medium": (
        "The conformance kit cannot make media of this kind.",
        "Override `array` in the class of the test.",
    ),
    "testing.wrong-subject": (
        "The class of a conformance test has attributes that do not fit each other or the plugin.",
        "Change the attribute that the message names.",
    ),
    "tokenizer.damaged": (
        "A file of the tokenizer holds something that it must not hold.",
        "Save the tokenizer again.",
    ),
    "tokenizer.files-disagree": (
        "Two files of the tokenizer give a token different ids.",
        "Save the tokenizer again.",
    ),
    "tokenizer.no-end": (
        "The tokenizer names no token that ends a text.",
        "Add `eos_token` to `tokenizer_config.json`.",
    ),
    "tokenizer.not-found": (
        "The directory does not exist, or has no `tokenizer.json`.",
        "Give the directory that `save_pretrained` of transformers wrote.",
    ),
    "tokenizer.placeholder-taken": (
        "Text of the tokenizer already makes the token of a placeholder.",
        "Give the module another placeholder.",
    ),
    "tokenizer.unknown-placeholder": (
        "No module has the placeholder.",
        "Report it to the author of the plugin that asks for it.",
    ),
    "tokenizer.unknown-token": (
        "A file names a token that the vocabulary does not have.",
        "Name a token of the vocabulary.",
    ),
    "tokenizer.unreadable": (
        "A file of the tokenizer cannot be read.",
        "Correct its access.",
    ),
    "tokenizer.vocabulary-too-large": (
        "The tokenizer has more ids than the model has rows of embeddings.",
        "Give the model more rows, or use a tokenizer with fewer ids.",
    ),
    "verify.dropout": (
        "A module has dropout, which draws other numbers in every layout.",
        "Set the dropout to 0 for the comparison.",
    ),
    "verify.folder-not-empty": (
        "The folder for the runs is not empty.",
        "Give a new one.",
    ),
    "verify.inside-launcher": (
        "`mimo verify` was started by torchrun or srun.",
        "Start it directly: it starts ranks itself.",
    ),
    "verify.other-recipe": (
        "The recipe differs from the judge's in more than grids.",
        "Change grids only.",
    ),
    "verify.stopped": (
        "A run was stopped before its end.",
        "Run again, without the flags that the message names.",
    ),
    "weights.damaged": (
        "A file of the directory is damaged or missing.",
        "Save or copy the model again.",
    ),
    "weights.mismatch": (
        "Tensors of a directory do not fit the module.",
        "Correct the options of the module, or give the directory of a model that fits.",
    ),
    "weights.not-found": (
        "There is no such directory, or it holds no safetensors.",
        "Give a directory that `save_pretrained` of transformers wrote.",
    ),
    "weights.unknown-type": (
        "A tensor has a type that cannot be read here.",
        "Save the model with a floating-point type.",
    ),
    "weights.unreadable": (
        "A file of the directory cannot be read.",
        "Correct its access.",
    ),
}
"""Those of the core."""
