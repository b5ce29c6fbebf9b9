"""Defenses of classifiers, and the baselines they are compared with."""

from typing import TYPE_CHECKING

from robustkit.lazy import exports

# A public name is written twice: below for type checkers (`from x import Name as Name`), and in
# the table for Python, which imports it on first use.
if TYPE_CHECKING:
    from robustkit.defenses._criticality import Criticality as Criticality
    from robustkit.defenses._rift_report import RiFTReport as RiFTReport
    from robustkit.defenses.base import Defended as Defended
    from robustkit.defenses.base import Defense as Defense
    from robustkit.defenses.contextual_fusion import ContextualFusion as ContextualFusion
    from robustkit.defenses.contextual_fusion import Fused as Fused
    from robustkit.defenses.crossmax import CrossMax as CrossMax
    from robustkit.defenses.crossmax import CrossMaxEnsemble as CrossMaxEnsemble
    from robustkit.defenses.ensembles import Aggregation as Aggregation
    from robustkit.defenses.ensembles import Ensemble as Ensemble
    from robustkit.defenses.guards import buffers_kept as buffers_kept
    from robustkit.defenses.lipschitz_filter import LipschitzFilter as LipschitzFilter
    from robustkit.defenses.lq_vae import LQVAE as LQVAE
    from robustkit.defenses.lq_vae import Filtered as Filtered
    from robustkit.defenses.multi_resolution import MultiResolution as MultiResolution
    from robustkit.defenses.multi_resolution_stack import (
        MultiResolutionStack as MultiResolutionStack,
    )
    from robustkit.defenses.peers import MeanLogits as MeanLogits
    from robustkit.defenses.peers import MedianLogits as MedianLogits
    from robustkit.defenses.peers import Vote as Vote
    from robustkit.defenses.rift import RiFT as RiFT
    from robustkit.defenses.rift import Tuned as Tuned
    from robustkit.defenses.self_ensemble import SelfEnsemble as SelfEnsemble
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "Aggregation": "ensembles",
            "Criticality": "_criticality",
            "ContextualFusion": "contextual_fusion",
            "CrossMax": "crossmax",
            "CrossMaxEnsemble": "crossmax",
            "Defended": "base",
            "Defense": "base",
            "Ensemble": "ensembles",
            "Filtered": "lq_vae",
            "Fused": "contextual_fusion",
            "LQVAE": "lq_vae",
            "LipschitzFilter": "lipschitz_filter",
            "MeanLogits": "peers",
            "MedianLogits": "peers",
            "MultiResolution": "multi_resolution",
            "MultiResolutionStack": "multi_resolution_stack",
            "RiFT": "rift",
            "RiFTReport": "_rift_report",
            "SelfEnsemble": "self_ensemble",
            "Tuned": "rift",
            "Vote": "peers",
            "buffers_kept": "guards",
        },
    )
