"""The process of a rank above 0: `python -m engine_torch.rank RANK N STORE`, started by ranks.py."""

import sys
from pathlib import Path

from enginebench_protocol.main import claim_stdio


def main() -> None:
    read_fd, write_fd = claim_stdio()
    from enginebench_protocol.serve import die_with_parent

    die_with_parent(read_fd)  # before torch is imported: rank 0 may be killed in these seconds too
    from enginebench_protocol.errors import StreamClosed
    from enginebench_protocol.framing import FrameStream

    from engine_torch.follower import Follower
    from engine_torch.ranks import leave
    from engine_torch.shard import Shard

    rank, n, store = sys.argv[1:]
    try:
        Follower(FrameStream(read_fd, write_fd), Shard(int(rank), int(n)), Path(store)).run()
    except StreamClosed:
        return
    leave()


if __name__ == "__main__":
    main()
