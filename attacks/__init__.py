"""Attacks on classifiers, each written against what its threat model lets it see."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.attacks.apgd import APGD as APGD
    from robustkit.attacks.autoattack import AutoAttack as AutoAttack
    from robustkit.attacks.base import EvasionAttack as EvasionAttack
    from robustkit.attacks.building import build as build
    from robustkit.attacks.building import describe as describe
    from robustkit.attacks.building import name_of as name_of
    from robustkit.attacks.cgba import CGBA as CGBA
    from robustkit.attacks.cgba import CGBAH as CGBAH
    from robustkit.attacks.fgsm import FGSM as FGSM
    from robustkit.attacks.fgsm import StepLL as StepLL
    from robustkit.attacks.fmn import FMN as FMN
    from robustkit.attacks.foolbox import FoolboxAttack as FoolboxAttack
    from robustkit.attacks.geoda import GeoDA as GeoDA
    from robustkit.attacks.hopskipjump import HopSkipJump as HopSkipJump
    from robustkit.attacks.pgd import PGD as PGD
    from robustkit.attacks.queued import Queued as Queued
    from robustkit.attacks.rays import RayS as RayS
    from robustkit.attacks.square import Square as Square
    from robustkit.attacks.stepwise import Stepwise as Stepwise
    from robustkit.attacks.surfree import SurFree as SurFree
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "APGD": "apgd",
            "AutoAttack": "autoattack",
            "CGBA": "cgba",
            "CGBAH": "cgba",
            "EvasionAttack": "base",
            "FGSM": "fgsm",
            "FMN": "fmn",
            "FoolboxAttack": "foolbox",
            "GeoDA": "geoda",
            "HopSkipJump": "hopskipjump",
            "PGD": "pgd",
            "Queued": "queued",
            "RayS": "rays",
            "Square": "square",
            "StepLL": "fgsm",
            "Stepwise": "stepwise",
            "SurFree": "surfree",
            "build": "building",
            "describe": "building",
            "name_of": "building",
        },
    )
