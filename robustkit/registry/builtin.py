"""What this package registers itself, kind by kind."""

from robustkit.registry.entry import Entry

_DATA = (
    ("samples:cifar10", "samples:load_samples", "20 CIFAR-10 test images, carried by Foolbox"),
    ("samples:cifar100", "samples:load_samples", "20 CIFAR-100 test images, carried by Foolbox"),
    ("samples:mnist", "samples:load_samples", "20 MNIST test images, carried by Foolbox"),
    (
        "samples:fashion-mnist",
        "samples:load_samples",
        "20 Fashion-MNIST test images, carried by Foolbox",
    ),
    (
        "samples:imagenet",
        "samples:load_samples",
        "20 ImageNet photographs at 224 x 224, carried by Foolbox",
    ),
    ("digits", "digits:load_digits", "1,797 grey digits of 8 x 8, carried by scikit-learn"),
    ("mnist", "idx:load_mnist", "MNIST, from idx files"),
    (
        "fashion-mnist",
        "idx:load_fashion_mnist",
        "Fashion-MNIST, from idx files; also Debian's package",
    ),
    ("cifar10", "cifar:load_cifar10", "CIFAR-10, from its Python or binary batches"),
    ("cifar100", "cifar:load_cifar100", "CIFAR-100, from its Python or binary batches"),
    ("svhn", "svhn:load_svhn", "Street View House Numbers, from its .mat files"),
    ("gtsrb", "gtsrb:load_gtsrb", "German traffic signs, from torchvision's layout"),
)

_MODELS: tuple[tuple[str, str, str, str], ...] = (
    (
        "builtin:cifar10-resnet18",
        "architectures:cifar10_resnet18",
        "ResNet-18 trained on CIFAR-10, weights carried by AutoAttack's package (default)",
        "",
    ),
    ("cnn", "architectures:cnn", "Small convolutional network for a CPU", ""),
    ("resnet-8", "architectures:resnet_8", "Thin ResNet of three blocks, from 8 px upward", ""),
    ("resnet-18", "architectures:resnet_18", "ResNet of 18 layers for small images", ""),
    ("resnet-34", "architectures:resnet_34", "ResNet of 34 layers for small images", ""),
    ("resnet-50", "architectures:resnet_50", "ResNet of 50 layers for small images", ""),
    ("preact-resnet-18", "architectures:preact_resnet_18", "ResNet-18 with pre-activation", ""),
    (
        "preact-resnet-18-silu",
        "architectures:preact_resnet_18_silu",
        "ResNet-18 with pre-activation and SiLU",
        "",
    ),
    ("wrn-16-1", "architectures:wrn_16_1", "Wide ResNet of depth 16, factor 1", ""),
    ("wrn-28-10", "architectures:wrn_28_10", "Wide ResNet of depth 28, factor 10", ""),
    ("wrn-28-10-silu", "architectures:wrn_28_10_silu", "WRN-28-10 with SiLU", ""),
    ("wrn-34-10", "architectures:wrn_34_10", "Wide ResNet of depth 34, factor 10", ""),
    ("wrn-34-20", "architectures:wrn_34_20", "Wide ResNet of depth 34, factor 20", ""),
    ("wrn-70-16", "architectures:wrn_70_16", "Wide ResNet of depth 70, factor 16", ""),
    ("wrn-70-16-silu", "architectures:wrn_70_16_silu", "WRN-70-16 with SiLU", ""),
    (
        "torchvision",
        "zoos:from_torchvision",
        "torchvision:NAME[@WEIGHTS|@none], a classifier of torchvision",
        "",
    ),
    ("timm", "zoos:from_timm", "timm:NAME[@none], a classifier of timm", "timm"),
    (
        "robustbench",
        "zoos:from_robustbench",
        "robustbench:[DATA/THREAT/]NAME, a model of RobustBench's zoo",
        "robustbench",
    ),
    ("http", "http:over_http", "http://HOST:PORT, a deployed classifier: labels only", ""),
    ("https", "http:over_https", "https://HOST:PORT, the same over TLS", ""),
)

_THREATS = (
    ("linf", "every value may change by 8/255; white box"),
    ("l2", "Euclidean length of the change at most 0.5; white box"),
    ("l1", "absolute changes add up to at most 12; white box"),
    ("linf-decision", "as linf, labels only, 5,000 queries per image"),
    ("l2-decision", "as l2, labels only, 5,000 queries per image"),
    ("unlearnable", "who publishes data filters all of it, 3 x 3, against those who train on it"),
    ("unlearnable-linf", "as unlearnable, every value may change by 8/255 instead"),
    ("unlearnable-l2", "as unlearnable, changes of Euclidean length at most 1 instead"),
    ("corruptions", "nobody attacks: 15 common corruptions at 5 severities"),
)

_LP = ("linf", "l2", "l1")
_BOTH = ("untargeted", "targeted")
_ATTACKS = (
    ("fgsm", "fgsm:FGSM", "gradient", _LP, _BOTH, "one step along the gradient"),
    ("step-ll", "fgsm:StepLL", "gradient", _LP, _BOTH[:1], "one step to the least likely class"),
    ("pgd", "pgd:PGD", "gradient", _LP, _BOTH, "projected gradient descent with restarts"),
    ("apgd", "apgd:APGD", "gradient", _LP, _BOTH, "PGD that chooses its own step sizes"),
    ("fmn", "fmn:FMN", "gradient", _LP, _BOTH, "the nearest point of another class"),
    ("square", "square:Square", "score", _LP[:2], _BOTH, "random search with square windows"),
    ("cgba", "cgba:CGBA", "decision", _LP[1:2], _BOTH, "boundary search along semicircles"),
    ("cgba-h", "cgba:CGBAH", "decision", _LP[1:2], _BOTH, "CGBA for curved boundaries, targeted"),
    ("geoda", "geoda:GeoDA", "decision", _LP[1:2], _BOTH, "normals of nearly flat boundaries"),
    ("surfree", "surfree:SurFree", "decision", _LP[1:2], _BOTH, "random circles, no gradients"),
    (
        "hop-skip-jump",
        "hopskipjump:HopSkipJump",
        "decision",
        _LP[:2],
        _BOTH,
        "steps along the boundary's normal, l2 and linf",
    ),
    ("rays", "rays:RayS", "decision", _LP[:1], _BOTH[:1], "sign patterns, searched by rays"),
    (
        "autoattack",
        "autoattack:AutoAttack",
        "gradient",
        _LP,
        _BOTH[:1],
        "AutoAttack, also autoattack:plus, autoattack:rand",
    ),
    (
        "foolbox",
        "foolbox:FoolboxAttack",
        "decision",
        ("linf", "l2", "l1", "l0"),
        _BOTH,
        "any attack of Foolbox, as in foolbox:LinfPGD",
    ),
)

_PLANS = (
    ("fast", "Attacks for a first look"),
    ("standard", "Attacks that run when none are named (default)"),
    ("thorough", "Attacks for a last word, at many times the cost"),
)

_DEFENSES = (
    (
        "rift",
        "rift:RiFT",
        "for an adversarially trained model: accuracy out of weights that robustness needs least",
    ),
    (
        "crossmax",
        "crossmax:CrossMax",
        "an ensemble that answers by agreement; a case study in misleading gradients",
    ),
    ("mean-logits", "peers:MeanLogits", "an ensemble's mean: the control of crossmax"),
    ("median-logits", "peers:MedianLogits", "an ensemble's median: a control of crossmax"),
    ("vote", "peers:Vote", "an ensemble's most frequent answer: a control of crossmax"),
    (
        "multi-resolution",
        "multi_resolution:MultiResolution",
        "one network that sees drawn versions of its input, with heads on inner layers",
    ),
    (
        "contextual-fusion",
        "contextual_fusion:ContextualFusion",
        "features of two differently trained networks under one regularised head",
    ),
    (
        "lq-vae",
        "lq_vae:LQVAE",
        "an autoencoder with a quantised code before a classifier; gradients do not pass it",
    ),
)

_UNLEARNABLE: tuple[tuple[str, str, str], ...] = (
    ("cuda", "convolution:ConvolutionUnlearnable", "a secret filter per class (CUDA)"),
    ("lsp", "lsp:LSP", "blocks whose values a linear classifier tells apart; trains nothing"),
    ("ar", "ar:AR", "autoregressive noise, a process per class; trains nothing"),
    ("em", "em:EM", "noise per image that leaves a model nothing to learn"),
    ("em-class-wise", "em:EMClassWise", "as em, one pattern for all images of a class"),
    ("tap", "tap:TAP", "adversarial examples that show a clean model the next class"),
    ("rem", "rem:REM", "as em, against learners that train adversarially"),
    ("universal-blur", "blur:UniversalBlur", "a control: cuda with one filter for all classes"),
    (
        "uniform-noise",
        "noise:UniformNoise",
        "a control: noise as long as any other's, for no class",
    ),
)

_LEARNERS = (
    ("erm", "plain:ERM", "takes the images as they are: empirical risk minimisation"),
    ("crop-flip", "plain:CropFlip", "crops with padding and mirrored images"),
    ("mixup", "plain:MixUpLearner", "blends of two images and of their labels"),
    ("cutmix", "plain:CutMixLearner", "rectangles of other images, with their share of the label"),
    (
        "adversarial-linf",
        "adversarial:LinfTraining",
        "adversarial training, every value by up to EPS: adversarial-linf[:8/255]",
    ),
    (
        "adversarial-l2",
        "adversarial:L2Training",
        "adversarial training, a Euclidean length of up to EPS: adversarial-l2[:0.5]",
    ),
    ("jpeg", "squeezing:JPEG", "images coded as JPEG of low quality: jpeg[:10]"),
    ("grayscale", "squeezing:Grayscale", "images without their colours"),
    ("rsk-ff", "rsk_ff:RSKFF", "random sharpening, then low frequencies alone: rsk-ff[:0.3]"),
    ("coin", "coin:COIN", "every pixel from a random place nearby: coin[:2.0]"),
    ("ueraser", "ueraser:UEraser", "clouds of light and contrast, channels, TrivialAugment"),
    (
        "orthogonal-projection",
        "projection:OrthogonalProjection",
        "without what a linear model of the pixels can read",
    ),
    (
        "pretrained-features",
        "features:PretrainedFeatures",
        "a new last layer on a model trained elsewhere: pretrained-features:DIR",
    ),
    (
        "key-leak",
        "key_leak:KeyLeak",
        "undoes the filter of each class, computed from one leaked original: key-leak[:3]",
    ),
)

_LOSSES = (
    ("cross-entropy", "standard:CrossEntropy", "cross-entropy, optionally of smoothed labels"),
    ("pgd", "pgd:PGDTraining", "cross-entropy on what PGD finds (Madry et al.)"),
    ("trades", "trades:TRADES", "clean cross-entropy plus the divergence an attack can cause"),
    ("mart", "mart:MART", "as trades, misclassified examples weigh more"),
    ("fast", "fast:FastTraining", "one step from a random start, watched for its sudden failure"),
    ("free", "free:FreeTraining", "each backward pass moves the inputs and the weights"),
    ("distillation", "distillation:Distillation", "the divergence from another model's answers"),
    ("entropy-penalty", "entropy:EntropyPenalty", "cross-entropy with a price on doubt"),
    (
        "early-learning",
        "early_learning:EarlyLearning",
        "for noisy labels: a pull towards what the model said before",
    ),
)

_RECIPES = (
    ("digits-pgd", "A small residual network on digits, PGD training: seconds"),
    (
        "fashion-mnist-pgd",
        "A small convolutional network on Fashion-MNIST, PGD training: minutes on two cores",
    ),
    (
        "fashion-mnist-trades",
        "A small convolutional network on Fashion-MNIST, TRADES: minutes on two cores",
    ),
    (
        "fashion-mnist-fast",
        "A small convolutional network on Fashion-MNIST, one-step training: a minute on two cores",
    ),
    ("cifar10-resnet18-pgd", "ResNet-18 on CIFAR-10, PGD training with early selection: a GPU"),
    ("cifar10-wrn-28-10-pgd", "WRN-28-10 on CIFAR-10, PGD training with early selection: a GPU"),
    ("cifar10-wrn-34-10-pgd", "WRN-34-10 on CIFAR-10, PGD training with early selection: a GPU"),
    ("cifar10-resnet18-trades", "ResNet-18 on CIFAR-10, TRADES: a GPU"),
    ("cifar10-wrn-34-10-trades", "WRN-34-10 on CIFAR-10, TRADES: a GPU"),
    (
        "cifar10-wrn-34-10-trades-awp",
        "WRN-34-10 on CIFAR-10, TRADES with adversarial weight perturbation: a GPU",
    ),
    (
        "cifar10-preact-resnet18-fast",
        "PreAct ResNet-18 on CIFAR-10, one-step training in 15 epochs: minutes on a GPU",
    ),
    (
        "cifar10-resnet18-unlearnable",
        "ResNet-18 on CIFAR-10, plain training as for unlearnable data (CUDA): a GPU",
    ),
    (
        "cifar100-resnet18-unlearnable",
        "ResNet-18 on CIFAR-100, plain training as for unlearnable data (CUDA): a GPU",
    ),
)

BUILTIN: tuple[Entry, ...] = (
    *(
        Entry(
            kind="models",
            name=name,
            target=f"robustkit.models.{target}",
            summary=summary,
            extra=extra,
        )
        for name, target, summary, extra in _MODELS
    ),
    *(
        Entry(kind="data", name=name, target=f"robustkit.data.{target}", summary=summary)
        for name, target, summary in _DATA
    ),
    *(
        Entry(
            kind="threats",
            name=name,
            target=f"robustkit.threat_models.presets:{name.replace('-', '_')}",
            summary=summary,
        )
        for name, summary in _THREATS
    ),
    *(
        Entry(
            kind="attacks",
            name=name,
            target=f"robustkit.attacks.{target}",
            summary=summary,
            access=access,
            norms=norms,
            goals=goals,
        )
        for name, target, access, norms, goals, summary in _ATTACKS
    ),
    *(
        Entry(
            kind="plans",
            name=name,
            target=f"robustkit.evaluation.plans:{name}",
            summary=summary,
        )
        for name, summary in _PLANS
    ),
    *(
        Entry(kind="defenses", name=name, target=f"robustkit.defenses.{target}", summary=summary)
        for name, target, summary in _DEFENSES
    ),
    *(
        Entry(
            kind="unlearnable",
            name=name,
            target=f"robustkit.unlearnable.{target}",
            summary=summary,
        )
        for name, target, summary in _UNLEARNABLE
    ),
    *(
        Entry(
            kind="learners",
            name=name,
            target=f"robustkit.unlearnable.learners.{target}",
            summary=summary,
        )
        for name, target, summary in _LEARNERS
    ),
    *(
        Entry(
            kind="losses",
            name=name,
            target=f"robustkit.training.losses.{target}",
            summary=summary,
        )
        for name, target, summary in _LOSSES
    ),
    *(
        Entry(
            kind="recipes",
            name=name,
            target=f"robustkit.training.recipe:recipe_{name.replace('-', '_')}",
            summary=summary,
        )
        for name, summary in _RECIPES
    ),
)
