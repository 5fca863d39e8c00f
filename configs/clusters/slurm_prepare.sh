#!/bin/bash
#SBATCH --job-name=driftwork-prepare
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
# Preparation on a Ray cluster that lasts as long as the Slurm job:
# sbatch configs/clusters/slurm_prepare.sh CONFIG source=DIR out=DIR [key=value ...]
# Submit it in the repository, whose file system the nodes share; set the lines above to your cluster.
set -euo pipefail
. .venv/bin/activate
export PYTHONPATH=$PWD RAY_USAGE_STATS_ENABLED=0

# Whoever has the token can run code in the cluster: one for this job alone, in a file that only its owner reads.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray_token.$SLURM_JOB_ID
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

out=""
for argument in "$@"; do
  case $argument in out=*) out=${argument#out=} ;; esac
done
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# Start Ray on all nodes and the command on the first; Ray ends with the command.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_ON_NODE" \
  -- driftwork prepare "$@" address=auto
driftwork verify "$out" # symmetric-run ends with 0 where Ray did not start
