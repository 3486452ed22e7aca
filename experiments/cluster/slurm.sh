#!/usr/bin/env bash
# Workers of one sweep under Slurm: a worker a task, which share a PostgreSQL database and an MLflow server.
#
#   export CAVE_OPTUNA_URL=postgresql+psycopg://cave@db.example.org:5432/optuna   # its password in ~/.pgpass, mode 600
#   export MLFLOW_TRACKING_URI=http://mlflow.example.org:5000
#   sbatch --ntasks=16 experiments/cluster/slurm.sh mhvae my-study
#
# Run it from the project's root, on a disk that all nodes share, with `cave` on the PATH. A minute before its time
# is over every worker gets SIGTERM, stops and closes its run; the same line again goes on.
# Without GPUs leave `--gpus-per-task` out.
#SBATCH --job-name=cave-sweep
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=2
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

variant=${1:?give a variant}
study=${2:?give a study}
: "${CAVE_OPTUNA_URL:?}" "${MLFLOW_TRACKING_URI:?}"

# A task that ends, well or not, leaves the others at work.
exec srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-2}" \
  cave worker "$variant" --study "$study" --workers 1
