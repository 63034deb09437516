"""`python -m riffusion_train VERB …`, the form that launchers such as `accelerate launch -m` need."""

from riffusion_train.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
