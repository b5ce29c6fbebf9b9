"""What the classes of the well-known sets are called, in the order of their labels."""

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

_GTSRB = """
speed limit 20,speed limit 30,speed limit 50,speed limit 60,speed limit 70,speed limit 80,
end of speed limit 80,speed limit 100,speed limit 120,no overtaking,no overtaking by lorries,
priority at next crossing,priority road,give way,stop,no vehicles,no lorries,no entry,danger,
bend to the left,bend to the right,double bend,uneven road,slippery road,road narrows,road works,
traffic lights,pedestrians,children,cyclists,ice or snow,wild animals,end of all limits,
turn right ahead,turn left ahead,ahead only,ahead or right,ahead or left,keep right,keep left,
roundabout,end of no overtaking,end of no overtaking by lorries
"""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


_NAMES: dict[str, tuple[str, ...]] = {
    "cifar10": tuple(_CIFAR10.split()),
    "cifar100": tuple(_CIFAR100.split()),
    "fashion-mnist": _listed(_FASHION),
    "gtsrb": _listed(_GTSRB),
    "mnist": tuple("0123456789"),
    "svhn": tuple("0123456789"),
}


def of(name: str) -> tuple[str, ...]:
    """The class names of a set: `cifar10`, `cifar100`, `mnist`, `svhn`, `imagenet`, ..."""
    if name == "imagenet":
        return _imagenet()
    return _NAMES[name]


def _imagenet() -> tuple[str, ...]:
    # A thousand names that torchvision already carries.
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
