"Packaging of the exported library, for which nothing but setuptools is needed. Name, version, requirements and commands come from settings.ini; the licence's name, the classifiers and decord's marker stand here."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
readme = here / "README.md"
extras = [key.removesuffix("_requirements") for key in cfg if key.endswith("_requirements")]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author=cfg["author"],
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_namespace_packages(
        include=["vtg_r1", "vtg_r1.*"], exclude=["vtg_r1.experiments"]
    ),  # folders of assets too; experiments are notebooks
    package_data={"vtg_r1": ["py.typed", "assets/**/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split() + ["decord>=0.6; platform_machine == 'x86_64' or platform_machine == 'AMD64'"],
    extras_require={name: cfg[f"{name}_requirements"].split() for name in extras},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
)
