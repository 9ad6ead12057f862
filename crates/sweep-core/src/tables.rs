//! The tables of the grammar: every key of a sweep file, what it takes, what stands in for it, and where a default that
//! shapes a result comes from ("paper" is Ngnawé et al., arXiv 2509.23325; "default" where the paper is silent).

mod attacks;

use self::attacks::{EVALUATION_ATTACKS, TRAINING_ATTACKS, VALIDATION_ATTACKS};
use crate::budget::MAX_EPOCHS;
use crate::grammar::Presence::{Default, Optional, Required};
use crate::grammar::{Field, Kind, Open, Presence, Variant};

const fn field(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Field {
    Field { name, kind, presence, doc }
}

const fn variant(kind: &'static str, fields: &'static [Field], doc: &'static str) -> Variant {
    Variant { kind, fields, doc }
}

const fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

const COUNT: Kind = integer(1, 1_000_000);
const SEED: Kind = integer(0, i64::MAX);
const RATE: Kind = Kind::Number { min: 0.0, max: 10.0, open: Open::Min };
const DECAY: Kind = Kind::Number { min: 0.0, max: 1.0, open: Open::Neither };
const HALF_OPEN: Kind = Kind::Number { min: 0.0, max: 1.0, open: Open::Max };
const UNIT: Kind = Kind::Number { min: 0.0, max: 1.0, open: Open::Neither };
const EPOCHS: Kind = integer(0, MAX_EPOCHS as i64);

/// The keys of a run: of `run`, `matrix`, `include`, `exclude`, `when` and `set`.
pub(crate) static RUN: &[Field] = &[
    field(
        "backbone",
        Kind::Name,
        Required,
        "Name of a pretrained network: a built-in one or one of `backbones`.",
    ),
    field("dataset", Kind::Name, Required, "Name of a dataset: a built-in one or one of `datasets`."),
    field(
        "target_epsilon",
        Kind::Epsilon,
        Required,
        "Radius that training ends at (the paper's eps_g), such as 4/255.",
    ),
    field(
        "epsilon_schedule",
        Kind::Tagged(EPSILON_SCHEDULES),
        Required,
        "How epsilon gets from 0 to the target.",
    ),
    field("seed", SEED, Default("0"), "Seed of everything random in the run. Default 0."),
    field(
        "epochs",
        integer(1, MAX_EPOCHS as i64),
        Default("50"),
        "Passes over the training split. Default 50 (paper).",
    ),
    field(
        "batch_size",
        COUNT,
        Default("1024"),
        "Images an optimizer step. Default 1024 (the co-author's code; paper silent).",
    ),
    field(
        "micro_batch_size",
        Kind::Or { word: "auto", kind: &COUNT },
        Optional,
        "Images a forward pass; what fits the device. It divides the batch size. auto: the worker finds out what fits its GPU, up to the batch size; on the CPU it is the default. Default: the largest divisor of the batch size up to 32. Part of a run's identity only where the backbone has batch norm, which normalises over a micro batch.",
    ),
    field(
        "precision",
        Kind::Choice(&["f32", "tf32", "bf16"]),
        Default("f32"),
        "Numbers that the device computes with; weights, losses and attack iterates are f32 always. tf32 and bf16 need a GPU. Default f32 (paper silent).",
    ),
    field(
        "input_size",
        integer(8, 2048),
        Optional,
        "Side of the square input in pixels. Default: that of the backbone.",
    ),
    field(
        "optimizer",
        Kind::Tagged(OPTIMIZERS),
        Default("{kind: adamw}"),
        "Optimizer and rates. Default AdamW (paper).",
    ),
    field(
        "learning_rate_schedule",
        Kind::Tagged(LEARNING_RATE_SCHEDULES),
        Default("{kind: cosine}"),
        "How the learning rates move. Default cosine with warm-up (paper).",
    ),
    field(
        "clip_norm",
        Kind::Or { word: "none", kind: &Kind::Number { min: 0.0, max: 1e6, open: Open::Min } },
        Default("none"),
        "Longest gradient of an optimizer step (Euclidean norm over all parameters); a longer one is scaled down. Default none (paper).",
    ),
    field(
        "ema",
        Kind::Or { word: "none", kind: &Kind::Object(EMA) },
        Default("none"),
        "Exponential moving average of the weights, which is validated, evaluated and saved in their place. Default none (paper).",
    ),
    field(
        "objective",
        Kind::Tagged(OBJECTIVES),
        Default("{kind: adversarial}"),
        "What training minimises; labels are never smoothed. Default adversarial (paper).",
    ),
    field(
        "attack",
        Kind::Tagged(TRAINING_ATTACKS),
        Default("{kind: apgd, steps: 7}"),
        "Attack that crafts training images. Default APGD with 7 steps (paper).",
    ),
    field(
        "augmentation",
        Kind::Tagged(AUGMENTATIONS),
        Default("{kind: paper}"),
        "What is done to training images first.",
    ),
    field(
        "validation",
        Kind::Object(VALIDATION),
        Default("{}"),
        "What is measured on the validation split after every epoch.",
    ),
    field(
        "evaluation",
        Kind::Object(EVALUATION),
        Default("{}"),
        "What is measured on the test split after the last epoch.",
    ),
];

static EPSILON_SCHEDULES: &[Variant] = &[
    variant("none", &[], "Always 0: standard fine-tuning."),
    variant("fixed", &[], "Always the target: the paper's RFT-fix."),
    variant(
        "ramp",
        &[
            field(
                "start",
                Kind::Epoch,
                Required,
                "First epoch of the ramp (T1); epochs count from 0, percentages are rounded to the nearest epoch.",
            ),
            field("end", Kind::Epoch, Required, "First epoch at the target (T2)."),
            PER,
        ],
        "0 before `start`, linear until `end`, then the target: the paper's Epsilon-Scheduling.",
    ),
    variant(
        "warmup",
        &[field("end", Kind::Epoch, Required, "First epoch at the target."), PER],
        "A ramp from epoch 0.",
    ),
    variant(
        "step",
        &[field("start", Kind::Epoch, Required, "First epoch at the target.")],
        "0, then the target at once.",
    ),
    variant("uniform", &[], "Each epoch draws from [0, target] (paper, Table 8)."),
    variant(
        "piecewise",
        &[field(
            "points",
            Kind::List { item: &Kind::Object(POINT), min: 1, max: 1000 },
            Required,
            "Corners, in order of epochs.",
        )],
        "Straight lines between points.",
    ),
    variant(
        "auto",
        &[
            field(
                "patience",
                integer(1, MAX_EPOCHS as i64),
                Default("5"),
                "Epochs in a row without improvement of the validation clean accuracy that mean convergence. Default 5 (paper, Table 4).",
            ),
            field(
                "tolerance",
                HALF_OPEN,
                Default("0.02"),
                "Smallest change of accuracy that counts, absolute. Default 0.02 (paper, Table 4).",
            ),
            field(
                "end",
                Kind::Or { word: "auto", kind: &Kind::Epoch },
                Default("100%"),
                "First epoch at the target (T2). Default 100% (paper, Table 4: a ramp to the last epoch). auto: half of the epochs left at T1, later where the accuracy falls on the way.",
            ),
            PER,
        ],
        "0 until the validation clean accuracy has converged (T1), then a ramp (paper, Table 4).",
    ),
];

const PER: Field = field(
    "per",
    Kind::Choice(&["epoch", "step"]),
    Default("epoch"),
    "How often epsilon changes on the way. Default epoch (paper).",
);

static POINT: &[Field] = &[
    field("epoch", Kind::Epoch, Required, "The epoch."),
    field("fraction", UNIT, Required, "Fraction of the target epsilon."),
];

static OPTIMIZERS: &[Variant] = &[
    variant(
        "adamw",
        &[
            field(
                "learning_rate",
                RATE,
                Default("1.2e-4"),
                "Rate of the backbone. Default 1.2e-4 (the co-author's search; paper silent).",
            ),
            field("head_learning_rate", RATE, Optional, "Rate of the head. Default: that of the backbone."),
            field(
                "weight_decay",
                DECAY,
                Default("1e-6"),
                "Weight decay of the backbone. Default 1e-6 (the co-author's search).",
            ),
            field(
                "head_weight_decay",
                DECAY,
                Optional,
                "Weight decay of the head. Default: that of the backbone.",
            ),
            field(
                "betas",
                Kind::List { item: &HALF_OPEN, min: 2, max: 2 },
                Default("[0.9, 0.95]"),
                "Decay of the moments. Default [0.9, 0.95] (the co-author's code).",
            ),
            field("stability", RATE, Default("1e-8"), "Added to the denominator. Default 1e-8 (PyTorch)."),
            NO_DECAY,
        ],
        "AdamW.",
    ),
    variant(
        "sgd",
        &[
            field("learning_rate", RATE, Required, "Rate of the backbone."),
            field("head_learning_rate", RATE, Optional, "Rate of the head. Default: that of the backbone."),
            field("weight_decay", DECAY, Default("0"), "Weight decay of the backbone. Default 0 (PyTorch)."),
            field(
                "head_weight_decay",
                DECAY,
                Optional,
                "Weight decay of the head. Default: that of the backbone.",
            ),
            field(
                "momentum",
                HALF_OPEN,
                Default("0.9"),
                "Momentum. Default 0.9 (usual in fine-tuning; paper uses AdamW only).",
            ),
            NO_DECAY,
        ],
        "Stochastic gradient descent with momentum.",
    ),
];

const NO_DECAY: Field = field(
    "no_decay",
    Kind::Choice(&["sibling", "usual"]),
    Default("sibling"),
    "Parameters without weight decay. sibling: those with bias, norm or bn in their name; usual: timm's rule, tensors of at most one dimension, biases, position tables and extra tokens. Default sibling (the co-author's code; paper silent).",
);

static OBJECTIVES: &[Variant] = &[
    variant("adversarial", &[], "Cross entropy on perturbed images alone (paper)."),
    variant(
        "trades",
        &[field(
            "beta",
            Kind::Number { min: 0.0, max: 1e6, open: Open::Min },
            Default("6"),
            "Weight of the divergence. Default 6 (Zhang et al. 2019).",
        )],
        "Cross entropy on clean images, plus the divergence of the outputs on perturbed images (Zhang et al. 2019).",
    ),
];

static EMA: &[Field] = &[field(
    "decay",
    HALF_OPEN,
    Required,
    "Share of the former average that each optimizer step keeps. Mind the number of steps: 0.99 looks back over about 100.",
)];

static LEARNING_RATE_SCHEDULES: &[Variant] = &[
    variant("constant", &[], "Always the full rate."),
    variant(
        "cosine",
        &[
            field(
                "warmup_epochs",
                EPOCHS,
                Default("5"),
                "Epochs of linear warm-up. Default 5 (paper has a warm-up of unknown length).",
            ),
            field(
                "per",
                Kind::Choice(&["epoch", "step"]),
                Default("epoch"),
                "How often the rate changes. Default epoch (the co-author's code).",
            ),
        ],
        "Linear warm-up, then half a cosine down to 0.",
    ),
];

static AUGMENTATIONS: &[Variant] = &[
    variant("none", &[], "Only the resize."),
    variant(
        "paper",
        &[
            field("flip", UNIT, Default("0.5"), "Probability of a horizontal flip. Default 0.5 (paper)."),
            field(
                "jitter",
                HALF_OPEN,
                Default("0.25"),
                "Half-width of the factor for brightness, contrast, saturation. Default 0.25 (paper).",
            ),
            field(
                "rotation",
                Kind::Number { min: 0.0, max: 180.0, open: Open::Neither },
                Default("2"),
                "Largest rotation in degrees. Default 2 (the co-author's code; paper gives no angle).",
            ),
        ],
        "Flip, colour jitter, small rotation.",
    ),
];

static VALIDATION: &[Field] = &[field(
    "attack",
    Kind::Tagged(VALIDATION_ATTACKS),
    Default("{kind: apgd, steps: 10}"),
    "Attack at the full target epsilon. Default APGD with 10 steps (paper).",
)];

static EVALUATION: &[Field] = &[
    field(
        "attack",
        Kind::Tagged(EVALUATION_ATTACKS),
        Default("{kind: apgd, steps: 10}"),
        "Attack at every multiple of 1/255. Default APGD with 10 steps (paper).",
    ),
    field(
        "max_epsilon",
        Kind::Epsilon,
        Default("16/255"),
        "Largest radius, at least the target epsilon. Default 16/255 (paper).",
    ),
];

/// The keys of a definition under `backbones`.
pub(crate) static BACKBONE: &[Field] = &[
    field("architecture", Kind::Tagged(ARCHITECTURES), Required, "Shape of the network."),
    field("weights", Kind::Tagged(WEIGHTS), Required, "Where its weights come from."),
    field(
        "normalization",
        Kind::Object(NORMALIZATION),
        Default("{}"),
        "Mean and standard deviation of the pixels. Default: ImageNet's.",
    ),
];

static NORMALIZATION: &[Field] = &[
    field(
        "mean",
        Kind::List { item: &UNIT, min: 3, max: 3 },
        Default("[0.485, 0.456, 0.406]"),
        "Red, green, blue.",
    ),
    field(
        "std",
        Kind::List { item: &Kind::Number { min: 0.0, max: 10.0, open: Open::Min }, min: 3, max: 3 },
        Default("[0.229, 0.224, 0.225]"),
        "Red, green, blue.",
    ),
];

const SIDE: Kind = integer(8, 2048);
const WIDTHS: Kind = Kind::List { item: &COUNT, min: 4, max: 4 };
const STAGES: Kind = Kind::List { item: &COUNT, min: 1, max: 6 };

static ARCHITECTURES: &[Variant] = &[
    variant(
        "vit",
        &[
            field("image_size", SIDE, Default("224"), "Side of the input in pixels."),
            field("patch_size", integer(1, 256), Default("16"), "Side of a patch in pixels."),
            field("embed_dim", COUNT, Default("768"), "Width."),
            field("depth", integer(1, 1000), Default("12"), "Number of blocks."),
            field("num_heads", integer(1, 1024), Default("12"), "Attention heads."),
            field(
                "mlp_ratio",
                Kind::Number { min: 0.0, max: 64.0, open: Open::Min },
                Default("4"),
                "Hidden width of a block, in widths.",
            ),
            field(
                "clip",
                Kind::Bool,
                Default("false"),
                "CLIP's variant: norm before the blocks, no bias in the patch embedding.",
            ),
            field("quick_gelu", Kind::Bool, Default("false"), "OpenAI's QuickGELU instead of GELU."),
        ],
        "Vision transformer. Defaults: ViT-B/16.",
    ),
    variant(
        "swin",
        &[
            field("image_size", SIDE, Default("224"), "Side of the input in pixels."),
            field("patch_size", integer(1, 256), Default("4"), "Side of a patch in pixels."),
            field("window_size", integer(1, 256), Default("7"), "Side of a window in patches."),
            field("embed_dim", COUNT, Default("128"), "Width of the first stage."),
            field("depths", STAGES, Default("[2, 2, 18, 2]"), "Blocks a stage."),
            field("num_heads", STAGES, Default("[4, 8, 16, 32]"), "Attention heads a stage."),
            field(
                "drop_path",
                HALF_OPEN,
                Default("0.1"),
                "Stochastic depth at the last block. Default 0.1 (timm).",
            ),
        ],
        "Swin transformer. Defaults: Swin-B.",
    ),
    variant(
        "convnext",
        &[
            field("image_size", SIDE, Default("224"), "Side of the input in pixels."),
            field("depths", WIDTHS, Default("[3, 3, 27, 3]"), "Blocks a stage."),
            field("dims", WIDTHS, Default("[128, 256, 512, 1024]"), "Width a stage."),
            field(
                "drop_path",
                HALF_OPEN,
                Default("0"),
                "Stochastic depth at the last block. Default 0 (timm).",
            ),
        ],
        "ConvNeXt. Defaults: ConvNeXt-B.",
    ),
    variant(
        "resnet",
        &[
            field("image_size", SIDE, Default("224"), "Side of the input in pixels."),
            field("block", Kind::Choice(&["basic", "bottleneck"]), Default("bottleneck"), "Residual block."),
            field("layers", WIDTHS, Default("[3, 4, 6, 3]"), "Blocks a stage."),
            field(
                "channels",
                WIDTHS,
                Default("[64, 128, 256, 512]"),
                "Channels of the 3x3 convolutions a stage.",
            ),
        ],
        "ResNet. Defaults: ResNet-50.",
    ),
];

static WEIGHTS: &[Variant] = &[
    variant("random", &[], "From scratch."),
    variant(
        "file",
        &[field(
            "path",
            Kind::Text,
            Required,
            "Safetensors or a PyTorch state dictionary, under timm's or open_clip's names; relative to the sweep file.",
        )],
        "A local file.",
    ),
    variant(
        "hub",
        &[
            field("repository", Kind::Name, Required, "owner/name"),
            field("revision", Kind::Name, Default("main"), "Branch, tag or commit."),
            field("file", Kind::Name, Default("model.safetensors"), "The file in the repository."),
        ],
        "A model repository on the Hugging Face Hub.",
    ),
    variant(
        "pretrain",
        &[field(
            "run",
            Kind::PartialRun,
            Required,
            "The run that trains it from scratch; it joins the grid. Not written: no augmentation of the task, epsilon 0.",
        )],
        "The final model of a run of its own.",
    ),
];

/// The keys of a definition under `datasets`.
pub(crate) static DATASET: &[Field] = &[
    field("source", Kind::Tagged(SOURCES), Required, "Where the images come from."),
    field(
        "splits",
        Kind::Tagged(SPLITS),
        Default("{kind: given}"),
        "How train, validation and test are made.",
    ),
    field(
        "expected",
        Kind::Object(EXPECTED),
        Optional,
        "Published sizes: used for estimates, checked on loading.",
    ),
];

const COLUMN: Kind = Kind::Text;
const EXIF: Field = field(
    "exif",
    Kind::Choice(&["ignore", "apply"]),
    Default("ignore"),
    "Orientation of pictures: as stored, or as meant to be seen. Default ignore (torchvision, and so the paper).",
);
const ON_BAD_IMAGE: Field = field(
    "on_bad_image",
    Kind::Choice(&["fail", "skip"]),
    Default("fail"),
    "What happens when a picture cannot be read. skip leaves it out and counts it.",
);

static SOURCES: &[Variant] = &[
    variant(
        "procedural",
        &[
            field(
                "family",
                Kind::Choice(&["upstream", "shapes", "textures", "blobs", "glyphs", "details"]),
                Required,
                "Family of images.",
            ),
            field("seed", SEED, Default("0"), "Seed of every image."),
            field("train", integer(1, 10_000_000), Required, "Training images."),
            field("test", integer(1, 10_000_000), Required, "Test images."),
        ],
        "Images drawn from a seed.",
    ),
    variant(
        "parquet",
        &[
            field("path", Kind::Text, Required, "Folder; relative to the sweep file."),
            field("image_column", COLUMN, Default("image"), "Image column."),
            field("label_column", COLUMN, Default("label"), "Label column: integers or texts."),
            EXIF,
            ON_BAD_IMAGE,
        ],
        "A local folder of parquet files in the Hub's layout.",
    ),
    variant(
        "folder",
        &[field("path", Kind::Text, Required, "Folder; relative to the sweep file."), EXIF, ON_BAD_IMAGE],
        "A local folder of pictures: <split>/<class>/<picture>.",
    ),
    variant(
        "hub",
        &[
            field("repository", Kind::Name, Required, "owner/name"),
            field("revision", Kind::Name, Default("main"), "Branch, tag or commit."),
            field("config", Kind::Text, Optional, "Configuration, where the repository has several."),
            field("image_column", COLUMN, Default("image"), "Image column."),
            field("label_column", COLUMN, Default("label"), "Label column: integers or texts."),
            EXIF,
            ON_BAD_IMAGE,
        ],
        "A dataset repository on the Hugging Face Hub.",
    ),
];

static SPLITS: &[Variant] = &[
    variant(
        "given",
        &[
            field("train", Kind::Name, Default("train"), "Training split of the source."),
            field(
                "validation",
                Kind::Tagged(VALIDATIONS),
                Default("{kind: fraction}"),
                "Where validation images come from.",
            ),
            field("test", Kind::Name, Default("test"), "Test split of the source."),
            field("test_subset", Kind::Object(SUBSET), Optional, "Only a stratified part of the test split."),
        ],
        "The source has a training and a test split.",
    ),
    variant(
        "pooled",
        &[
            field("train_per_class", COUNT, Required, "Training images a class."),
            field("validation_per_class", COUNT, Required, "Validation images a class."),
            field("seed", SEED, Default("0"), "Seed of the draw."),
        ],
        "All splits are pooled and drawn anew; the rest is the test split.",
    ),
];

static VALIDATIONS: &[Variant] = &[
    variant(
        "split",
        &[field("name", Kind::Name, Default("validation"), "Its name.")],
        "A split of the source.",
    ),
    variant(
        "per_class",
        &[
            field("count", COUNT, Required, "Images a class."),
            field("seed", SEED, Default("0"), "Seed of the draw."),
        ],
        "Drawn from training, equally many of each class.",
    ),
    variant(
        "fraction",
        &[
            field(
                "fraction",
                Kind::Number { min: 0.0, max: 1.0, open: Open::Both },
                Default("0.15"),
                "Part of each class. Default 0.15 (paper, Cars).",
            ),
            field("seed", SEED, Default("0"), "Seed of the draw."),
        ],
        "Drawn from training, in proportion.",
    ),
];

static SUBSET: &[Field] = &[
    field("count", COUNT, Required, "Number of images."),
    field("seed", SEED, Default("0"), "Seed of the draw."),
];

static EXPECTED: &[Field] = &[
    field("classes", COUNT, Required, "Number of classes."),
    field("train", COUNT, Required, "Training images."),
    field("validation", COUNT, Required, "Validation images."),
    field("test", COUNT, Required, "Test images."),
];

/// The keys of `execution`: where the grid runs. Flags of `sweep run` override them.
pub(crate) static EXECUTION: &[Field] = &[
    field(
        "executor",
        Kind::Choice(&["local", "slurm"]),
        Default("local"),
        "What runs the workers: processes of this machine, or jobs of Slurm.",
    ),
    field("devices", Kind::Text, Optional, "Device slots of this machine, such as cpu:2 or cuda:0,1."),
    field("threads", integer(1, 4096), Optional, "Threads of a CPU worker."),
    field(
        "timeout",
        Kind::Duration,
        Optional,
        "Longest time an attempt may take; then it is stopped, and tried again as long as it gets further.",
    ),
    field(
        "stall",
        Kind::Or { word: "off", kind: &Kind::Duration },
        Default("30m"),
        "Longest time an attempt may live without finishing a step; then it is stopped and tried again.",
    ),
    field(
        "checkpoint_every",
        Kind::Duration,
        Default("10m"),
        "How often a checkpoint is written within an epoch. There is one after every epoch in any case.",
    ),
    field(
        "keep_checkpoints",
        Kind::Choice(&["last", "none"]),
        Default("last"),
        "What stays of the checkpoints of a finished run beside its model: the last one, from which a longer run goes on, or none.",
    ),
    field(
        "disk_budget",
        Kind::Size,
        Optional,
        "Most disk space of checkpoints and models of all runs of the home folder. Default: what is free.",
    ),
    field(
        "partition",
        Kind::Text,
        Optional,
        "Slurm: partition, or several with commas between them. Default: the cluster's.",
    ),
    field(
        "account",
        Kind::Text,
        Optional,
        "Slurm: account that the jobs are charged to. Default: the user's.",
    ),
    field("qos", Kind::Text, Optional, "Slurm: quality of service. Default: the account's."),
    field("gpus", Kind::Gpus, Optional, "Slurm: GPUs of a job, such as 1 or a100:1. Default: none."),
    field("cpus", integer(1, 65_536), Optional, "Slurm: processors of a job. Default: the cluster's."),
    field("memory", Kind::Memory, Optional, "Slurm: memory of a job, such as 16G. Default: the cluster's."),
    field(
        "time",
        Kind::TimeLimit,
        Optional,
        "Slurm: longest time of a job, such as 12:00:00, 2-00:00:00, 90 (minutes) or 12h; runs that need longer go on in the next. Default: the partition's.",
    ),
    field(
        "array_limit",
        integer(1, 1_000_000),
        Optional,
        "Slurm: most jobs of the sweep that run at the same time. Default: as many as there is room for.",
    ),
    field(
        "runs_per_job",
        integer(1, 1000),
        Default("1"),
        "Slurm: runs that one job does, one after the other; for runs that are short beside the wait for a job.",
    ),
    field(
        "setup",
        Kind::List { item: &Kind::Text, min: 0, max: 1000 },
        Default("[]"),
        "Slurm: lines of shell that a job begins with, such as module load cuda.",
    ),
    field(
        "program",
        Kind::List { item: &Kind::Text, min: 0, max: 100 },
        Default("[]"),
        "Slurm: words by which a job calls this program, such as [apptainer, exec, --nv, sweep.sif, sweep]. Default: its own path.",
    ),
    field(
        "sbatch",
        Kind::List { item: &Kind::SbatchFlag, min: 0, max: 100 },
        Default("[]"),
        "Slurm: further flags of sbatch, such as --constraint=a100.",
    ),
];

/// The keys of `execution` that only count for Slurm.
pub(crate) const SLURM_KEYS: [&str; 12] = [
    "partition",
    "account",
    "qos",
    "gpus",
    "cpus",
    "memory",
    "time",
    "array_limit",
    "runs_per_job",
    "setup",
    "program",
    "sbatch",
];
