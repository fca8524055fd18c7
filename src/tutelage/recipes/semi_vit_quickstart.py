"""Semi-ViT for small pictures and few labels (Cai et al., NeurIPS 2022, arXiv:2208.05688): 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-vit-quickstart --data fashion-mnist --labels 250 --init FINETUNED

FixMatch whose labels an averaged teacher guesses; strong views are mixed in pairs, the surer one more. Meant to go on from an
encoder that was pretrained and fine-tuned with the few labels. Ratio 5, threshold 0.5, smoothing 0.1 and the mean of the patch
tokens are its code's for a tenth of ImageNet's labels; momentum 0.996 instead of 0.9999, the weight of the guesses 1 instead of
5, and no layer decay, are ours for short runs.
Source: its code (amazon-science/semi-vit, read for facts); the rest ours.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH

RECIPE = FIXMATCH.changed(
    batch_size=60,
    method={
        "unlabelled_ratio": 5,
        "threshold": 0.5,
        "label_smoothing": 0.1,
        "mixing": "probabilistic",
        "pool": "avg",
        "teacher": {"every": "step", "momentum": {"start": 0.996, "end": 0.996}},
        "guesses_by": "teacher",
        "hands_on": "teacher",
    },
)
