"""Trains one stage from a checkout: the same as ``python -m janus_train.train``, which says how it is called.

accelerate launch train.py +stage={1,2,3} [model=tiny|janus_pro_1b|janus_pro_7b|from_folder] [key=value ...]
"""

from janus_train.train.entry import main

if __name__ == "__main__":
    main()
