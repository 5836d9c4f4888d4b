#!/usr/bin/env python3
"""Put prepared songs into WebDataset tar shards of 24 kHz mono audio.

    python recipes/pretrain/shard.py --manifest_folder DIR --shard_folder DIR

for collections that are trained on by many nodes, or too large for a file
system of millions of small files. Prepare the manifests first, with
`folder_prepare.py` or another prepare script. Interrupt it at any time: the
same command continues. Train with `--dataset shards --data_folder DIR`;
`--verify` reads finished shards again and compares their digests.
"""

import argparse

from muselq_modules.errors import CommandParser, UserError, exits_cleanly
from muselq_modules.shard_sets import verify_all, write_all


def command_line():
    """Return the parser of the command line."""
    parser = CommandParser(
        description="Put prepared songs into WebDataset tar shards.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--manifest_folder", help="prepared songs; not needed to verify")
    add("--shard_folder", required=True, help="receives the shards")
    add("--shard_gb", type=float, default=2.0, help="size of a shard in GB")
    add("--workers", type=int, help="processes, by default one for each core")
    add("--verify", action="store_true", help="only check finished shards")
    return parser


@exits_cleanly
def main():
    """Run from the command line."""
    options = command_line().parse_args()
    if options.verify:
        wrong = verify_all(options.shard_folder, options.workers)
        if wrong:
            raise UserError(
                f"{len(wrong)} shards in {options.shard_folder} are absent or "
                f"differ from index.json, the first {wrong[0]}: copy them again"
            )
        print(f"All shards in {options.shard_folder} are as they were written")
        return
    if options.manifest_folder is None:
        raise UserError("--manifest_folder is missing: name the manifests")
    if not options.shard_gb > 0:
        raise UserError(
            f"--shard_gb is {options.shard_gb}: give a size above 0"
        )
    index = write_all(
        options.manifest_folder,
        options.shard_folder,
        options.shard_gb,
        options.workers,
    )
    for name, split in index["splits"].items():
        print(
            f"{name}: {split['songs']:,} songs, {split['hours']:,.1f} hours, "
            f"{len(split['shards']):,} shards, {split['bytes'] / 1e9:,.2f} GB"
        )


if __name__ == "__main__":
    main()
