"""``python -m janus_train.train``: trains one stage, in an installed package as in a checkout."""

from janus_train.train.entry import main

if __name__ == "__main__":
    main()
