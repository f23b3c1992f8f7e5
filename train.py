"""Hydra entry: compose the configuration, check it, run one stage.

accelerate launch train.py +stage={1,2,3} [model=tiny|janus_pro_1b|janus_pro_7b|from_folder] [key=value ...]
accelerate launch train.py +stage=2 model=janus_pro_1b --cfg job      # print the configuration and stop
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from janus_train.config import ROOT, UserError, load
from janus_train.overrides import check_overrides, quote_stage


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def main(values: DictConfig) -> None:
    config = load(OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]
    from janus_train.train.loop import run  # torch and transformers load only once the configuration is right

    try:
        run(config)
    except UserError as error:  # caught inside: Hydra would print a traceback
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        sys.argv[1:] = quote_stage(sys.argv[1:])
        check_overrides(sys.argv[1:])
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
