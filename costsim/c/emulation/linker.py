"""The linker script of a firmware, written from the memory map of its device."""

from costsim.c.emulation.memory_map import MemoryMap, Span

ARENA_SECTION = ".costsim_arena"
FROZEN_SECTION = ".costsim_frozen"


def linker_script(memory: MemoryMap, stack_bytes: int) -> str:
    """A GNU ld script: code and constants in flash, stack, data and arena in RAM, in this order.

    A section that does not fit makes the linker refuse, with the bytes that are missing.
    """
    regions = [_region("FLASH", "rx", memory.flash), _region("RAM", "rw", memory.stack)]
    arena = "RAM"
    if not memory.shared:
        arena = "ARENA"
        regions.append(_region(arena, "rw", memory.arena))
    listed = "\n".join(f"  {region}" for region in regions)
    return f"""MEMORY
{{
{listed}
}}
ENTRY(Reset_Handler)
EXTERN(costsim_init costsim_train_step costsim_predict costsim_classify)
EXTERN(costsim_begin_means costsim_add_to_means costsim_end_means)
SECTIONS
{{
  .text : {{
    KEEP(*(.vectors))
    *(.text .text.*)
    *(.rodata .rodata.*)
    . = ALIGN(4);
    *({FROZEN_SECTION} {FROZEN_SECTION}.*)
    . = ALIGN(4);
  }} > FLASH
  .stack (NOLOAD) : {{
    __stack_bottom = .;
    . = . + {stack_bytes};
    . = ALIGN(8);
    __stack_top = .;
  }} > RAM
  .data : {{
    __data_start = .;
    *(.data .data.*)
    . = ALIGN(4);
    __data_end = .;
  }} > RAM AT> FLASH
  __data_load = LOADADDR(.data);
  .bss (NOLOAD) : {{
    __bss_start = .;
    *(.bss .bss.*) *(COMMON)
    . = ALIGN(4);
    __bss_end = .;
  }} > RAM
  {ARENA_SECTION} (NOLOAD) : {{
    __arena_start = .;
    KEEP(*({ARENA_SECTION} {ARENA_SECTION}.*))
    __arena_end = .;
  }} > {arena}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) }}
}}
"""


def _region(name: str, access: str, span: Span) -> str:
    return f"{name} ({access}) : ORIGIN = {span.address:#x}, LENGTH = {span.size_bytes}"
