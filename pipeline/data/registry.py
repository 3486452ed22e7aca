"""The data sets: their published files with checksums, their readers and their protocols.

A mirror is laid out as `<data set>/<file>`; the environment variable `CAVE_DATA_MIRROR` names it.
"""

from __future__ import annotations

from functools import partial

from pipeline.data import readers
from pipeline.data.dataset import Dataset, Remote
from pipeline.data.files import read_files

__all__ = ["DATASETS"]

MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/ae608a02b796c9ee908c082585a5f006fe05258e/",
    "http://yann.lecun.com/exdb/mnist/",
)
FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/",
)
BINARIZED = (
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    "https://raw.githubusercontent.com/riannevdberg/sylvester-flows/32dde9b7d696fee94f946a338182e542779eecfe/data/MNIST_static/",
)
OMNIGLOT = (
    "https://raw.githubusercontent.com/yburda/iwae/78a6075484bd7dd6f47a4bb9880d2295bc7a5220/datasets/OMNIGLOT/",
    "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",
)
CALTECH = ("https://people.cs.umass.edu/~marlin/data/", "http://people.cs.umass.edu/~marlin/data/")
CIFAR = ("https://www.cs.toronto.edu/~kriz/", "http://www.cs.toronto.edu/~kriz/")
SVHN = ("http://ufldl.stanford.edu/housenumbers/", "https://ufldl.stanford.edu/housenumbers/")
FREY = ("https://cs.nyu.edu/~roweis/data/", "http://www.cs.nyu.edu/~roweis/data/")


def _remote(
    folders: tuple[str, ...], file: str, size: int | None = None, sha256: str | None = None, md5: str | None = None
) -> Remote:
    return Remote(file, tuple(folder + file for folder in folders), size, sha256, md5)


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        source="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), https://doi.org/10.24432/C50P49",
        protocols=("stratified",),
        read=readers.digits,
    ),
    "cave": Dataset(
        source="Shadows of solids, rendered by pipeline.data.cave",
        protocols=("stratified",),
        read=readers.cave,
    ),
    "mnist": Dataset(
        source="Gradient-based learning applied to document recognition (LeCun et al. 1998),"
        " http://yann.lecun.com/exdb/mnist/",
        protocols=("standard", "burda"),
        read=partial(readers.mnist, train=60000, test=10000),
        remotes=(
            _remote(
                MNIST,
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _remote(
                MNIST,
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _remote(
                MNIST,
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _remote(
                MNIST,
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion_mnist": Dataset(
        source="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), https://arxiv.org/abs/1708.07747",
        protocols=("standard", "burda"),
        dark_on_light=False,
        read=partial(readers.mnist, train=60000, test=10000),
        remotes=(
            _remote(
                FASHION,
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _remote(
                FASHION,
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            _remote(
                FASHION,
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _remote(
                FASHION,
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    "binarized_mnist": Dataset(
        source="The Neural Autoregressive Distribution Estimator (Larochelle, Murray 2011),"
        " https://proceedings.mlr.press/v15/larochelle11a.html",
        protocols=("static",),
        read=partial(readers.binarized_mnist, train=50000, valid=10000, test=10000),
        remotes=(
            _remote(
                BINARIZED,
                "binarized_mnist_train.amat",
                78400000,
                "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            ),
            _remote(
                BINARIZED,
                "binarized_mnist_valid.amat",
                15680000,
                "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            ),
            _remote(
                BINARIZED,
                "binarized_mnist_test.amat",
                15680000,
                "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
            ),
        ),
    ),
    "omniglot": Dataset(
        source="Importance Weighted Autoencoders (Burda, Grosse, Salakhutdinov 2016), https://arxiv.org/abs/1509.00519;"
        " validation set as in VAE with a VampPrior (Tomczak, Welling 2018), https://arxiv.org/abs/1705.07120",
        protocols=("published",),
        read=partial(readers.omniglot, train=24345, test=8070),
        remotes=(_remote(OMNIGLOT, "chardata.mat", md5="21ecaf34373511aa7691cf2e0802aa3d"),),
        holdout={"valid": 1345},
    ),
    "caltech101_silhouettes": Dataset(
        source="Inductive Principles for Restricted Boltzmann Machine Learning (Marlin et al. 2010),"
        " https://people.cs.umass.edu/~marlin/data.shtml",
        protocols=("published",),
        dark_on_light=False,
        read=partial(readers.caltech101, train=4100, valid=2264, test=2307),
        remotes=(
            _remote(CALTECH, "caltech101_silhouettes_28_split1.mat", 872124, md5="4483e9c14b188fd09937f9ea6f9ea777"),
        ),
    ),
    "frey_face": Dataset(
        source="Frames of a film of Brendan Frey, https://cs.nyu.edu/~roweis/data.html;"
        " sizes as in VAE with a VampPrior (Tomczak, Welling 2018), https://arxiv.org/abs/1705.07120",
        protocols=("published",),
        dark_on_light=False,
        read=partial(readers.frey_face, frames=1965),
        remotes=(
            _remote(
                FREY, "frey_rawface.mat", 1100584, "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64"
            ),
        ),
        holdout={"valid": 200, "test": 200},
    ),
    "cifar10": Dataset(
        source="Learning Multiple Layers of Features from Tiny Images (Krizhevsky 2009),"
        " https://www.cs.toronto.edu/~kriz/cifar.html",
        protocols=("standard",),
        dark_on_light=False,
        read=partial(readers.cifar10, batches=5, images=10000),
        remotes=(_remote(CIFAR, "cifar-10-binary.tar.gz", 170052171, md5="c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "svhn": Dataset(
        source="Reading Digits in Natural Images with Unsupervised Feature Learning (Netzer et al. 2011),"
        " http://ufldl.stanford.edu/housenumbers/",
        protocols=("standard",),
        dark_on_light=False,
        read=partial(readers.svhn, train=73257, test=26032),
        remotes=(
            _remote(SVHN, "train_32x32.mat", 182040794, md5="e26dedcc434d2e4c54c9b2d4a06d8373"),
            _remote(SVHN, "test_32x32.mat", 64275384, md5="eb5a983be6a315427106f1b164d9cef3"),
        ),
    ),
    "files": Dataset(
        source="Images of your own, at data.path",
        protocols=("fractions", "folders"),
        dark_on_light=False,
        read=read_files,
        local=True,
    ),
}
