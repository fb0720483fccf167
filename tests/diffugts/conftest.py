"""A tiny DiffuGTS with a tiny random prior, its texts filled in, and one cached phantom."""

import pytest
import torch

from zerotumor.diffugts import DiffuGTS
from zerotumor.diffugts.samples import RandQuestions, collate, known, prepare_batch
from zerotumor.diffusion.prior import Condition
from zerotumor.segmenter import save
from zerotumor.text import load_text_encoder
from zerotumor.training import GeneratePhantom

EDGE = 16
RECORD = {"seed": 0, "difficulty": 0.0, "category": "kidney cyst"}
