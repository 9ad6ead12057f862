//! The attacks of a sweep file.

use super::{field, integer, variant};
use crate::grammar::Presence::Default;
use crate::grammar::{Field, Kind, Variant};

/// Those that training images are crafted with.
pub(super) static TRAINING_ATTACKS: &[Variant] = &[variant(
    "apgd",
    &[
        field("steps", STEPS, Default("7"), "Number of steps. Default 7 (paper, training)."),
        NORM,
        ATTACK_LOSS,
    ],
    "Auto-PGD.",
)];

/// Those that validation images are put to, after every epoch.
pub(super) static VALIDATION_ATTACKS: &[Variant] = &[MEASURING_APGD];

/// Those that finished models are tested with.
pub(super) static EVALUATION_ATTACKS: &[Variant] = &[
    MEASURING_APGD,
    variant(
        "autoattack",
        &[],
        "AutoAttack's standard version in linf: APGD on cross entropy, targeted APGD, FAB, Square, each on the images that \
         withstood those before (paper, Table 6). About 440 times the passes of APGD with 10 steps for an image that \
         withstands it.",
    ),
];

const MEASURING_APGD: Variant = variant(
    "apgd",
    &[
        field("steps", STEPS, Default("10"), "Number of steps. Default 10 (paper, evaluation)."),
        NORM,
        ATTACK_LOSS,
    ],
    "Auto-PGD.",
);

const STEPS: Kind = integer(1, 10_000);

const NORM: Field = field(
    "norm",
    Kind::Choice(&["linf", "l2"]),
    Default("linf"),
    "The ball: the same in training, validation and evaluation. Default linf (paper).",
);

const ATTACK_LOSS: Field = field(
    "loss",
    Kind::Choice(&["cross_entropy", "dlr"]),
    Default("cross_entropy"),
    "What is maximised. Default cross entropy (paper).",
);
