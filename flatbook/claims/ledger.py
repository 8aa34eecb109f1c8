"""The ledger: quantitative statements of Stutz et al. 2021, in our words, and what decides each.

This part is about robust overfitting; that about flatness is in `ledger_flatness`.
"""

from flatbook.claims.comparisons import Below, Both, Bounded, Falls, Pairs, Rises, RisesMore, Stays
from flatbook.claims.ledger_flatness import (
    ACROSS,
    CURVATURE,
    DECAYS,
    FLAT,
    NONLINEAR,
    RERR,
    RLOSS,
    SINGLE,
    STOPPED,
    TRAIN,
    TRAINING,
    stutz,
)
from flatbook.claims.predicates import Correlates, Flattens
from flatbook.claims.trajectories import (
    CarriesMost,
    Climbs,
    Continues,
    LowestAfterDrop,
    RisesFurther,
)
from flatlib.losses import guessing

GUESSING = guessing(10)  # all sources have ten classes
SCHEDULES = ("const0.05", "late", "cyclic", "cyclic2", "cyclic3", "cyclic4")

OVERFITTING = stutz(
    "Robust overfitting", "models",
    ("at-rloss-overfits", "Fig. 2", "fig02",
     "Adversarial training to the end costs robust loss against stopping early (3.91 against 1.53;"
     " asked here: × 1.2).", Rises(STOPPED, RLOSS, 1.2, ("at",))),
    ("at-rerr-overfits", "Fig. 2", "fig02",
     "Adversarial training to the end costs robust error as well (61.0 % against 52.3 %; asked "
     "here: × 1.02).", Rises("rerr_early_stop_pgd", "rerr_test_pgd", 1.02, ("at",))),
    ("rloss-overfits-more", "Sec. 3.1", "fig02",
     "Robust loss overfits more than robust error: it grows by a larger factor.",
     RisesMore((STOPPED, RLOSS), ("rerr_early_stop_pgd", "rerr_test_pgd"))),
    ("rloss-above-guessing", "Sec. 3.1", "fig02",
     "At the end of adversarial training robust loss is above that of guessing, 2.30.",
     Bounded(RLOSS, least=GUESSING, methods=("at",))),
    ("schedules-overfit", "Sec. 4.1", "fig05",
     "Every learning-rate schedule overfits (asked here: constant, late and cyclic ones, robust "
     "loss × 1.05 against stopping early).", Rises(STOPPED, RLOSS, 1.05, SCHEDULES)),
    ("activations-overfit", "Sec. 3.1", "fig18",
     "Robust overfitting is there with MiSH, SiLU and GeLU as well (asked here: × 1.2).",
     Rises(STOPPED, RLOSS, 1.2, NONLINEAR)),
    ("handling-incorrect-fails", "Fig. 16", "fig16",
     "Leaving misclassified training images without attack, or attacking the predicted class, does"
     " not help: robust loss stays (asked here: above 0.9 times that of AT).",
     Below(RLOSS, ("ignore-incorrect", "no-leaking"), holds=False, factor=0.9)),
    ("mart-dampens", "Fig. 5", "fig05",
     "MART ends with a lower robust loss on misclassified test images than AT.",
     Below("rloss_incorrect_test_pgd", ("mart6",))),
    ("weak-awp-overfits", "Sec. 4.1", "fig05",
     "AT-AWP does not prevent overfitting if ξ is small, 0.001 (asked here: × 1.2).",
     Rises(STOPPED, RLOSS, 1.2, ("awp0.001",))),
    ("regularised-do-not-overfit", "Sec. 4.1", "fig05",
     "AutoAugment, unlabelled images and AT-AWP with ξ = 0.01 avoid overfitting (asked here: "
     "robust loss at most × 1.05 against stopping early).",
     Stays(STOPPED, RLOSS, 1.05, ("autoaugment", "unlabeled", "awp0.01"))),
    ("weight-decay-reduces", "Fig. 17", "fig17",
     "The stronger the weight decay, the less robust loss overfits (asked here: Spearman −0.7).",
     Falls("rloss_overfitting", DECAYS)),
    ("small-batches-reduce", "Fig. 17", "fig17",
     "Batches of 8 and 16 images overfit less than those of 128.",
     Below("rloss_overfitting", ("batch8", "batch16"))),
    ("fit-against-overfitting", "Sec. G.1", "fig17",
     "Less overfitting goes with a higher robust loss on training images (no number printed; asked"
     " here: Pearson −0.5).", Correlates(TRAIN, "rloss_overfitting", 0.5, sign=-1)),
) + stutz(
    "Robust overfitting", "curves",
    ("at-curve-rises", "Fig. 2", "fig02",
     "Along adversarial training test robust loss falls and then rises again (asked here: at the "
     "end × 1.2 of its lowest).", Climbs("test_rloss", "test_rloss", 1.2)),
    ("overfits-after-drop", "Fig. 2", "fig02",
     "Robust overfitting starts right after the first fall of the learning rate: test robust loss "
     "is lowest within the next tenth of the training.", LowestAfterDrop()),
    ("train-keeps-falling", "Fig. 2", "fig02",
     "While test robust loss rises, that on training images goes on falling (asked here: to half).",
     Continues()),
    ("incorrect-rise-more", "Sec. 3.1", "fig02",
     "Robust loss rises further on misclassified test images than on correct ones.",
     RisesFurther()),
    ("incorrect-carry", "Sec. 3.1", "fig02",
     "Misclassified test images carry most of the rise of robust loss (asked here: half).",
     CarriesMost()),
    ("correct-overfit-too", "Sec. 3.1", "fig02",
     "Robust overfitting occurs on correctly classified test images as well (asked here: × 1.1).",
     Climbs("test_rloss_correct", "test_rloss", 1.1)),
)

LOSS_AND_ERROR = stutz(
    "Robust loss and robust error", "models",
    ("kink", "Fig. 8", "fig08",
     "Above the robust loss of guessing, 2.3, less of it hardly means less robust error: the slope"
     " falls to less than half.", Flattens(RLOSS, RERR, GUESSING)),
    ("mart-blind", "Sec. 4.1", "fig05",
     "MART lowers robust loss much and robust error little (asked here: below 0.8 and not below "
     "0.95 times those of AT).",
     Both((Below(RLOSS, ("mart6",), factor=0.8),
           Below(RERR, ("mart6",), holds=False, factor=0.95)))),
    ("smoothing-blind", "Sec. 4.1", "fig05",
     "Label smoothing, too, lowers robust loss much and robust error little (asked here: the "
     "same).",
     Both((Below(RLOSS, ("smooth0.3",), factor=0.8),
           Below(RERR, ("smooth0.3",), holds=False, factor=0.95)))),
    ("label-noise-rerr", "Sec. 4.1", "fig05",
     "Label noise reaches a lower robust error than label smoothing with the same expected target "
     "(asked here: for each of τ = 0.1, 0.2, 0.3).",
     Pairs(RERR, tuple((f"noise0.{i}", f"smooth0.{i}") for i in (1, 2, 3)))),
    ("labels-rloss", "Sec. 4.1", "fig05",
     "Label noise and label smoothing both lower robust loss.",
     Below(RLOSS, ("noise0.3", "smooth0.3"))),
    ("aa-is-no-rloss", "Sec. F", "tab06",
     "AutoAttack underestimates robust loss, PGD robust error (asked here: 95 % of the methods).",
     Both((Rises("rloss_test_aa", RLOSS, share=0.95),
           Rises("rerr_test_pgd", RERR, share=0.95)))),
)

STOPPING = stutz(
    "Early stopping", "models",
    ("stopping-helps", "Fig. 9", "fig09",
     "Early stopping does not raise robust loss, whatever the method (asked here: nine methods in "
     "ten).", Rises(STOPPED, RLOSS, share=0.9)),
    ("stopping-rerr", "Tab. 1", "tab05",
     "Early stopping does not raise robust error (asked here: nine methods in ten).",
     Rises("rerr_early_stop_aa", RERR, share=0.9)),
    ("stopping-flattens", "Fig. 13", "fig13",
     "Where early stopping lowers robust loss it lowers average-case flatness, for every method "
     "(asked here: where robust loss overfits by × 1.05; nine methods in ten).",
     Rises(f"{FLAT}_early_stop", FLAT, share=0.9, where=(STOPPED, RLOSS, 1.05))),
)

LEDGER = (*OVERFITTING, *LOSS_AND_ERROR, *STOPPING, *ACROSS, *SINGLE, *TRAINING, *CURVATURE)
