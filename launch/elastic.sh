#!/bin/bash
# torchrun … --no-python launch/elastic.sh 16 dataset=/shared/dataset experiment=sd15_full run=/shared/runs/mine
# Trains on the processes that are there, as 16 would: where fewer are left, each accumulates more, and the steps are the same.
# torchrun starts it again when a machine is lost or joins; it goes on from the newest checkpoint. See docs/scale.md.
set -euo pipefail

processes=${1:?give the number of processes that the run is planned for}
shift
case " $* " in
  *" run="*) ;;
  *)
    echo "elastic.sh: give run=DIR, so that a restart can resume" >&2
    exit 2
    ;;
esac
if ((processes % WORLD_SIZE)); then
  echo "elastic.sh: $processes processes cannot be shared out among $WORLD_SIZE; torchrun --nnodes allows numbers that divide it" >&2
  exit 2
fi
exec python -m riffusion_train train "$@" resume=auto "gradient_accumulation_steps=$((processes / WORLD_SIZE))"
