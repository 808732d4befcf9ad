"""How much the benchmark measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What a full run measures: some twelve minutes on two cores of 2023.

    Attributes:
        widths: Channels of the first level of this project's network.
        compiled_widths: Widths that are measured compiled too; if there are any, so are the weights of this clone.
        image_size: Side in pixels of the networks' input.
        frame_size: Width and height of the frames that are segmented.
        throughput_batch, training_batch: Images of a call.
        latency_rounds, throughput_rounds, training_rounds, data_rounds: Turns of each contestant.
        block_seconds: A turn repeats its call for about so long: the clock's resolution and cold caches then hardly
            count.
        matrix_sizes: Sides of the square matrices whose multiplication gives the peak, by device.
        data_frames: Frames of the data path.
        data_frame_sizes: Width and height of those frames.
        scaling_width: Width of the network whose image size and batch grow; small enough for the largest to fit into
            memory.
        scaling_sizes: Sides in pixels, with one image a call.
        scaling_batches: Images of a call, at `image_size`.
        scaling_workers: Worker processes of the data loader; 0: none beside the main process.
        scaling_rounds: Timed calls of each point.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    compiled_widths: tuple[int, ...] = (16, 64)  # each costs half a minute of compilation in each part
    image_size: int = 256
    frame_size: tuple[int, int] = (640, 512)
    throughput_batch: int = 16
    training_batch: int = 4
    latency_rounds: int = 11
    throughput_rounds: int = 3
    training_rounds: int = 3
    data_rounds: int = 9
    block_seconds: float = 0.3
    matrix_sizes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("cpu", (1024, 2048)),
        ("mps", (2048, 4096)),
        ("cuda", (8192,)),
    )
    data_frames: int = 16
    data_frame_sizes: tuple[tuple[int, int], ...] = ((1280, 1024), (384, 288))
    scaling_width: int = 32
    scaling_sizes: tuple[int, ...] = (128, 256, 512, 1024)
    scaling_batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    scaling_workers: tuple[int, ...] = (0, 1, 2, 4)
    scaling_rounds: int = 3


QUICK = Plan(
    widths=(4,),
    compiled_widths=(4,),
    image_size=64,
    frame_size=(96, 80),
    throughput_batch=2,
    training_batch=2,
    latency_rounds=2,
    throughput_rounds=2,
    training_rounds=2,
    data_rounds=2,
    block_seconds=0.0,
    matrix_sizes=(("cpu", (256,)), ("mps", (256,)), ("cuda", (256,))),
    data_frames=2,
    data_frame_sizes=((160, 128),),
    scaling_width=4,
    scaling_sizes=(32, 64),
    scaling_batches=(1, 2),
    scaling_workers=(0, 1),
    scaling_rounds=2,
)
