"""Data that is published so that nobody can train on it, and the audit of such data."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.report.unlearnable import Distortion as Distortion
    from robustkit.unlearnable.ar import AR as AR
    from robustkit.unlearnable.blur import UniversalBlur as UniversalBlur
    from robustkit.unlearnable.building import build as build
    from robustkit.unlearnable.building import preset as preset
    from robustkit.unlearnable.convolution import ConvolutionUnlearnable as ConvolutionUnlearnable
    from robustkit.unlearnable.em import EM as EM
    from robustkit.unlearnable.em import EMClassWise as EMClassWise
    from robustkit.unlearnable.filters import class_filters as class_filters
    from robustkit.unlearnable.filters import filtered as filtered
    from robustkit.unlearnable.keys import Key as Key
    from robustkit.unlearnable.lsp import LSP as LSP
    from robustkit.unlearnable.manifest import Manifest as Manifest
    from robustkit.unlearnable.noise import UniformNoise as UniformNoise
    from robustkit.unlearnable.releasing import Release as Release
    from robustkit.unlearnable.rem import REM as REM
    from robustkit.unlearnable.share import stratified as stratified
    from robustkit.unlearnable.tap import TAP as TAP
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "AR": "ar",
            "UniversalBlur": "blur",
            "build": "building",
            "preset": "building",
            "ConvolutionUnlearnable": "convolution",
            "Distortion": "distortion",
            "EM": "em",
            "EMClassWise": "em",
            "class_filters": "filters",
            "filtered": "filters",
            "Key": "keys",
            "LSP": "lsp",
            "Manifest": "manifest",
            "UniformNoise": "noise",
            "Release": "releasing",
            "REM": "rem",
            "stratified": "share",
            "TAP": "tap",
        },
    )
