#!/bin/bash
#SBATCH --job-name=driftwork
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
# Training on the nodes of a Slurm job: sbatch configs/clusters/slurm_train.sh CONFIG data=DIR out=RUN [key=value ...].
# Submit it in the repository, whose file system the nodes share; set the lines above to your cluster. Slurm sends a
# signal 300 seconds before the end: the ranks save, and the job is queued again and continues from there. With data=s3://BUCKET/FOLDER,
# or a file system that is slow, cache_dir=DIR on a disk of the node keeps a copy there.
set -uo pipefail
config=$1
shift
run=""
for argument in "$@"; do
  case $argument in out=*) run=${argument#out=} ;; esac
done
if [ -z "$run" ]; then
  echo "slurm_train.sh: give out=RUN, so that a job that is queued again finds its run" >&2
  exit 2
fi
. .venv/bin/activate

mkdir -p "$run"
hostfile=$run/hostfile
slots=${SLURM_GPUS_ON_NODE:-$SLURM_CPUS_ON_NODE} # without GPUs a rank a core
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$slots/" > "$hostfile"

# srun instead of ssh: its processes belong to the job, and end with it.
wide=("hostfile=$hostfile" "hosts.ssh=srun --overlap --nodes=1 --ntasks=1 --export=ALL --nodelist")
if [ -e "$run/config.yaml" ]; then
  driftwork train "resume=$run" "${wide[@]}" &
else
  driftwork train "$config" "$@" "${wide[@]}" &
fi
training=$!
told=""
trap 'told=yes; kill -TERM $training' TERM
while true; do
  wait $training
  code=$?
  [ -z "$told" ] && break
  told="" # the signal ended the wait, not the training
done
if [ $code -eq 75 ]; then # asked to leave, and saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
