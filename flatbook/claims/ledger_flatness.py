"""The part of the ledger that is about flatness: Stutz et al. 2021, in our words.

Where a sentence of the paper has no number, the number asked for here is ours and is said.
"""

from flatbook.claims.comparisons import Below, Both, Bounded, Lowest, Needs, Ordered, Others, Rises
from flatbook.claims.predicates import Claim, Correlates, CorrelatesLess, Sweeps, Uncorrelated
from flatbook.claims.trajectories import Climbs, Radius, Scaled, Together, TogetherLess
from flatlib.catalogue.stutz2021 import TABLE1

FLAT, SHARP = "avg_flatness_rloss", "worst_flatness_rloss"  # average case, worst case
CLEAN, CLEAN_SHARP = "avg_flatness_loss", "worst_flatness_loss"
RLOSS, STOPPED, RERR = "rloss_test_pgd", "rloss_early_stop_pgd", "rerr_test_aa"
TRAIN = "rloss_train_pgd"
VARIANTS = ("trades6", "awp0.01", "mart6", "ssl4", "unlabeled")
REGULARISERS = ("entropy1", "wd0.05", "clip0.005")
NONLINEAR = ("mish", "silu", "gelu")
DECAYS = ("wd0", "wd0.001", "wd0.005", "wd0.01", "wd0.05")
CLIPPED = ("clip0.025", "clip0.01", "clip0.005")
SWEEPS = (  # Fig. 19; the last name stands for the sweep in what is shown
    ("cyclic", "cyclic2", "cyclic3", "cyclic4"), DECAYS,
    ("at", "smooth0.1", "smooth0.2", "smooth0.3"),
    ("at", "noise0.1", "noise0.2", "noise0.3", "noise0.4", "noise0.5"),
    ("at", "awp0.001", "awp0.005", "awp0.01"),
    ("entropy1", "entropy2", "entropy3", "entropy5"), ("ssl0.5", "ssl1", "ssl2",
     "ssl4", "ssl8"),
    ("mart1", "mart3", "mart6", "mart9"), ("trades1", "trades3", "trades6", "trades9"),
)  # fmt: skip


def stutz(topic, reads, *rows):
    """Claims of one topic and table, from rows (id, place, item, statement, predicate)."""
    return tuple(Claim(f"stutz2021-{id}", topic, *row, reads)
                 for id, *row in rows)  # fmt: skip


ACROSS = stutz(
    "Flatness across methods", "models",
    ("pearson", "Sec. 4.2", "fig08",
     "Robust loss and average-case flatness go together across methods: Pearson 0.85 (asked here: "
     "0.7).", Correlates(FLAT, RLOSS, 0.7)),
    ("spearman", "Sec. 4.2", "fig08",
     "Their ranks over the methods agree as well: Spearman 0.87 (asked here: 0.7).",
     Correlates(FLAT, RLOSS, 0.7, "spearman")),
    ("worst-case-related", "Sec. 4.2", "fig08",
     "Worst-case flatness is related to robust loss: Pearson 0.54 (asked here: 0.3).",
     Correlates(SHARP, RLOSS, 0.3)),
    ("worst-case-weaker", "Sec. 4.2", "fig08",
     "Worst-case flatness correlates less with robust loss than average-case flatness (0.54 "
     "against 0.85; asked here: 0.1 less).", CorrelatesLess(SHARP, FLAT, RLOSS)),
    ("clean-weaker", "Sec. D", "tab05",
     "Average-case flatness of the clean loss correlates much less with robust loss (0.27 against "
     "0.85; asked here: 0.1 less).", CorrelatesLess(CLEAN, FLAT, RLOSS)),
    ("clean-worst-weaker", "Fig. 13", "fig13",
     "Worst-case flatness of the clean loss has no clear relation to robust loss (asked here: "
     "Pearson 0.1 below that of average-case flatness of robust loss).",
     CorrelatesLess(CLEAN_SHARP, FLAT, RLOSS)),
    ("flatness-rerr", "Fig. 8", "fig08",
     "The relation is visible in robust error too (no number printed; asked here: Pearson 0.4).",
     Correlates(FLAT, RERR, 0.4)),
    ("gap", "Fig. 9", "fig09",
     "Flatter models have a smaller robust generalisation gap, test minus train robust loss (no "
     "number printed; asked here: Pearson 0.7).", Correlates(FLAT, "rloss_gap", 0.7)),
    ("overfitting", "Fig. 9", "fig09",
     "Flatter models overfit less: robust loss at the last epoch minus early-stopped (no number "
     "printed; asked here: Pearson 0.7).", Correlates(FLAT, "rloss_overfitting", 0.7)),
    ("train-flatness", "Fig. 9", "fig09",
     "Average-case flatness measured on training images still predicts test robust loss (no number"
     " printed; asked here: Pearson 0.5).", Correlates(f"{FLAT}_train", RLOSS, 0.5)),
    ("train-flatness-weaker", "Fig. 13", "fig13",
     "Measured on training images it predicts it less well than on test images (asked here: any "
     "difference).", CorrelatesLess(f"{FLAT}_train", FLAT, RLOSS, 0.0)),
    ("std-falls", "Fig. 13", "fig13",
     "For robust methods average-case flatness also varies less over the draws of weights (no "
     "number printed; asked here: Pearson 0.5 of its std with robust loss).",
     Correlates(f"{FLAT}_std", RLOSS, 0.5)),
    ("std-small", "Sec. D.1", "fig13",
     "The std of average-case flatness over the draws of weights is at most 0.3 for almost all "
     "methods (asked here: nine in ten).", Bounded(f"{FLAT}_std", most=0.3, share=0.9)),
    ("groups-average-case", "Tab. 1", "tab01",
     "Grouped by robust error into good, average and poor, methods have mean average-case flatness"
     " in that order (0.40, 0.69, 1.21).", Ordered(FLAT, RERR, TABLE1)),
    ("groups-worst-case", "Tab. 1", "tab01",
     "Grouped in the same way, mean worst-case flatness is in that order (2.0, 2.9, 4.67).",
     Ordered(SHARP, RERR, TABLE1)),
    ("groups-train", "Tab. 1", "tab01",
     "Robust error on training images is in the reverse order (36.3, 29.5, 9.9 %).",
     Ordered("rerr_train_aa", RERR, TABLE1, falling=True)),
    ("groups-stopping", "Tab. 1", "tab01",
     "What early stopping would gain in robust error is in that order (0.7, 2.7, 6.6 %).",
     Ordered("rerr_overfitting", RERR, TABLE1)),
    ("some-flatness", "Sec. 4.2", "tab05",
     "To be successful a method needs flatness in at least one of the two senses (asked here: "
     "below the median, for the fifth of the methods with the least robust error).",
     Needs((FLAT, SHARP), RERR)),
) + stutz(
    "Flatness across methods", "robustbench",
    ("robustbench-robust", "Fig. 1", "tab04",
     "Models of RobustBench have a lower robust loss than those trained here (asked here: nine in "
     "ten below the median).", Others(RLOSS, "robustbench")),
    ("robustbench-flat", "Fig. 1", "tab04",
     "Models of RobustBench are flatter, too (asked here: the same).", Others(FLAT, "robustbench")),
)  # fmt: skip

SINGLE = stutz(
    "Single methods", "models",
    ("variants-flatter", "Fig. 1", "fig01",
     "The variants known for robustness (TRADES, AT-AWP, MART, self-supervision, unlabelled data) "
     "are flatter than adversarial training.", Below(FLAT, VARIANTS)),
    ("variants-robust", "Tab. 1", "tab01",
     "These variants (TRADES, AT-AWP, MART, self-supervision, unlabelled data) have a lower robust"
     " error than adversarial training, too.", Below(RERR, VARIANTS)),
    ("regularisers-robust", "Fig. 1", "fig01",
     "Regularisers known for flatness (Entropy-SGD, weight decay, weight clipping) have lower "
     "robust loss than adversarial training.", Below(RLOSS, REGULARISERS)),
    ("regularisers-rerr", "Sec. 4.2", "tab01",
     "These regularisers (Entropy-SGD, weight decay, weight clipping) lower robust error, too.",
     Below(RERR, REGULARISERS)),
    ("unlabelled-best", "Sec. 4.2", "tab05",
     "Additional unlabelled images give the lowest robust error of all methods.",
     Lowest(RERR, "unlabeled")),
    ("activations-average-case", "Tab. 1", "tab01",
     "MiSH, SiLU and GeLU do not lower average-case flatness below that of ReLU (1.56, 1.71, 1.55 "
     "against 1.21).", Below(FLAT, NONLINEAR, holds=False)),
    ("activations-worst-case", "Tab. 1", "tab01",
     "MiSH, SiLU and GeLU do lower worst-case flatness (3.54, 4.20, 4.12 against 6.48).",
     Below(SHARP, NONLINEAR)),
    ("larger-epsilon", "Fig. 18", "fig18",
     "Training at a larger radius, 9/255, hardly changes flatness (asked here: not below 0.9 times"
     " that of AT).", Below(FLAT, ("eps9",), holds=False, factor=0.9)),
    ("smoothing-flat-but-overfits", "Fig. 18", "fig18",
     "Label smoothing avoids sharp minima but not a rise of robust loss (asked here: × 1.2).",
     Both((Below(FLAT, ("smooth0.3",)), Rises(STOPPED, RLOSS, 1.2, ("smooth0.3",))))),
    ("small-batch-sharp", "Fig. 4", "fig04",
     "Batches of 8 images lower robust error without a flatter minimum.",
     Both((Below(RERR, ("batch8",)), Below(FLAT, ("batch8",), holds=False)))),
    ("sweeps", "Fig. 19", "fig19",
     "Among the settings of one method those with less robust loss are flatter (asked here: "
     "Pearson 0.5 in each of nine sweeps).", Sweeps(FLAT, RLOSS, SWEEPS)),
    ("clipping-reversed", "Fig. 19", "fig19",
     "For weight clipping this is reversed: less robust loss, higher average-case flatness.",
     Sweeps(FLAT, RLOSS, (CLIPPED,), sign=-1)),
    ("clipping-worst-case", "Fig. 19", "fig19",
     "For weight clipping worst-case flatness does go with robust loss.",
     Sweeps(SHARP, RLOSS, (CLIPPED,))),
)  # fmt: skip

TRAINING = stutz(
    "Flatness during training", "snapshots",
    ("training-average", "Fig. 6", "fig06",
     "During adversarial training average-case flatness goes with test robust loss (no number "
     "printed; asked here: Pearson 0.7).", Together(FLAT, RLOSS, 0.7)),
    ("training-worst", "Fig. 6", "fig06",
     "So does worst-case flatness during adversarial training (asked here: 0.7).",
     Together(SHARP, RLOSS, 0.7)),
    ("training-sharper", "Fig. 6", "fig06",
     "Overfitting ends in a sharper minimum: average-case flatness grows from the epoch of lowest "
     "robust loss to the last (asked here: × 1.5).", Climbs(FLAT, RLOSS, 1.5)),
    ("training-variants", "Fig. 6", "fig06",
     "With self-supervision, AT-AWP and unlabelled images average-case flatness grows by a smaller"
     " factor than in adversarial training.",
     Climbs(FLAT, RLOSS, methods=("ssl4", "awp0.01", "unlabeled"), than="at")),
    ("training-lambda", "Fig. 12", "fig12",
     "Within one run of adversarial training the largest Hessian eigenvalue mirrors overfitting "
     "(asked here: Pearson 0.5).", Together("lambda_max", RLOSS)),
    ("training-clean-average", "Fig. 12", "fig12",
     "Average-case flatness of the clean loss mirrors overfitting less well than that of robust "
     "loss (asked here: Pearson 0.1 less).", TogetherLess(CLEAN, FLAT, RLOSS)),
    ("training-clean-worst", "Fig. 12", "fig12",
     "Worst-case flatness of the clean loss does mirror overfitting (asked here: Pearson 0.5).",
     Together(CLEAN_SHARP, RLOSS)),
    ("training-small-radius", "Fig. 12", "fig12",
     "At a small radius little is seen of overfitting: average-case flatness rises less (asked "
     "here: half as much).", Radius(f"{FLAT}@smallest", FLAT, most=0.5)),
    ("training-large-radius", "Fig. 12", "fig12",
     "At a large radius worst-case flatness rises to very high values during overfitting (asked "
     "here: × 1.5).", Radius(f"{SHARP}@largest", SHARP, least=1.5)),
)  # fmt: skip

CURVATURE = stutz(
    "Curvature, scale and radius", "models",
    ("lambda-across", "Tab. 2", "tab02",
     "Across methods the largest Hessian eigenvalue does not correlate with robust error (asked "
     "here: Pearson nearer 0 than 0.5).", Uncorrelated("lambda_max", RERR)),
    ("convexity-across", "Tab. 2", "tab02",
     "Nor does the convexity ratio, most negative to largest eigenvalue (asked here: the same).",
     Uncorrelated("convexity", RERR)),
    ("convexity-small", "Sec. E", "tab02",
     "The convexity ratio is small (asked here: at most 0.25, nine methods in ten).",
     Bounded("convexity", most=0.25, share=0.9, enough=8)),
    ("radii-average", "Fig. 14", "fig14",
     "At each radius, average-case flatness goes with robust loss (asked here: Pearson 0.6 at the "
     "smallest and the largest).",
     Both((Correlates(f"{FLAT}@smallest", RLOSS, 0.6), Correlates(f"{FLAT}@largest", RLOSS, 0.6)))),
    ("radii-small", "Fig. 14", "fig14",
     "At the smallest radius average-case flatness is small, up to 0.4 (asked here: nine methods "
     "in ten).", Bounded(f"{FLAT}@smallest", most=0.4, share=0.9)),
    ("radii-worst-noisy", "Fig. 14", "fig14",
     "Worst-case flatness correlates less with robust loss at the largest radius than at the "
     "smallest (asked here: any difference).",
     CorrelatesLess(f"{SHARP}@largest", f"{SHARP}@smallest", RLOSS, 0.0)),
    ("filter-flatter", "Fig. 11", "fig11",
     "Along directions normalised filter by filter robust loss rises less than along those "
     "normalised layer by layer (asked here: nine methods in ten).",
     Rises("line_filter_rise", "line_random_rise", share=0.9)),
    ("awp-adversarial", "Fig. 4", "fig04",
     "AT-AWP is flatter than AT along random directions, and not along adversarial ones.",
     Both((Below("line_random_rise", ("awp0.01",)),
           Below("line_adversarial_rise", ("awp0.01",), holds=False)))),
) + stutz(
    "Curvature, scale and radius", "versions",
    ("scaling-lambda", "Tab. 2", "tab02",
     "Convolutions scaled by 0.5 and 2 have 4 times and a quarter of the largest eigenvalue (1990:"
     " 7936, 505; asked here: to a tenth).", Scaled("lambda_max", 4, 0.25)),
    ("scaling-robustness", "Sec. E", "fig15",
     "Scaling does not change robust error (asked here: by at most one percentage point).",
     Scaled("rerr_test_pgd", within=0, slack=0.01)),
    ("scaling-flatness", "Fig. 15", "fig15",
     "Scaling does not change average-case flatness (asked here: to a tenth).", Scaled(FLAT)),
    ("scaling-worst", "Fig. 15", "fig15",
     "Scaling does not change worst-case flatness (asked here: to a tenth).", Scaled(SHARP)),
)  # fmt: skip
