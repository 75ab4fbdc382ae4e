/* Hooks of the emulator that are called for every block and every access: native, for speed.
 *
 * Linked to nothing: the emulator's own functions come in as pointers. Read and filled by
 * costsim/c/emulation/watch.py, whose structures must match these. */
#include <stdint.h>

enum { INHERIT = 0, OUTSIDE = 1, FIRST = 2 };

struct block {
    uint32_t address; /* 0: free */
    uint32_t size;
    int32_t operation; /* -1: none */
    uint32_t conditional; /* has an IT instruction */
    uint64_t count;
};

struct violation {
    uint64_t address;
    uint32_t size;
    uint32_t write;
    uint32_t happened;
    uint32_t pc;
};

struct watch {
    /* Which code belongs to which operation: a mark for each halfword of flash. */
    uint64_t code_address;
    uint64_t code_halfwords;
    const uint16_t *marks;
    const uint16_t *code;
    /* Blocks that ran, by (address, operation); a power of two of them. */
    struct block *blocks;
    uint64_t capacity;
    uint64_t used;
    int64_t operation;
    /* Bits of the bytes of a memory that each operation wrote, and of those it read before it
     * wrote them; row 0 is for none. */
    uint64_t ram_address;
    uint64_t ram_bytes;
    uint64_t row_bytes;
    uint8_t *written;
    uint8_t *read;
    /* Accesses of that memory from here on are refused. */
    uint64_t limit_address;
    struct violation violation;
    int (*stop)(void *emulator);
    int (*read_register)(void *emulator, int which, void *value);
    int (*write_register)(void *emulator, int which, const void *value);
    int64_t pc_register;
    int64_t state_register;
    /* How many operations were entered. */
    uint64_t entered;
    /* Whether the block that runs may be in an IT block, and where it ends. */
    uint64_t conditional;
    uint64_t end;
};

static uint32_t has_it(const struct watch *w, uint64_t first, uint32_t size)
{
    uint64_t end = first + size / 2;
    if (end > w->code_halfwords)
        return 1;
    while (first < end) {
        uint16_t word = w->code[first];
        if (word >> 8 == 0xBF && word & 15)
            return 1;
        first += word >> 11 >= 0x1D ? 2 : 1;
    }
    return 0;
}

/* The IT block of the one before may reach into a block that follows without a jump. */
static void enter(struct watch *w, const struct block *b)
{
    w->conditional = b->conditional || (w->conditional && w->end == b->address);
    w->end = (uint64_t)b->address + b->size;
}

void costsim_on_block(void *emulator, uint64_t address, uint32_t size, void *user)
{
    struct watch *w = user;
    uint64_t offset = (address - w->code_address) >> 1;
    if (offset < w->code_halfwords) {
        uint16_t mark = w->marks[offset];
        if (mark != INHERIT) {
            int64_t operation = (int64_t)mark - FIRST;
            operation = operation < 0 ? -1 : operation;
            w->entered += operation != w->operation;
            w->operation = operation;
        }
    }
    int32_t operation = (int32_t)w->operation;
    uint64_t mask = w->capacity - 1;
    uint64_t at = ((address >> 1) * 0x9E3779B1u ^ (uint64_t)(operation + 1) * 0x85EBCA77u) & mask;
    for (;;) {
        struct block *b = &w->blocks[at];
        if (b->address == (uint32_t)address && b->operation == operation && b->size == size) {
            b->count++;
            enter(w, b);
            return;
        }
        if (!b->address) {
            if (w->used * 4 > w->capacity * 3) { /* full: the reader refuses the profile */
                w->used = UINT64_MAX >> 3;
                w->stop(emulator);
                return;
            }
            b->address = (uint32_t)address;
            b->size = size;
            b->operation = operation;
            b->count = 1;
            b->conditional = has_it(w, offset, size);
            w->used++;
            enter(w, b);
            return;
        }
        at = (at + 1) & mask;
    }
}

/* Where unicorn (2.1) calls a hook for an access in an IT block it restores the block's state and
 * leaves it behind, so that later instructions are taken for conditional ones, which set no flags.
 * While translated code runs that state is zero. */
static void clear_it_state(struct watch *w, void *emulator)
{
    const uint32_t bits = 3u << 25 | 0x3Fu << 10;
    uint32_t state = 0;
    w->read_register(emulator, (int)w->state_register, &state);
    if (state & bits) {
        state &= ~bits;
        w->write_register(emulator, (int)w->state_register, &state);
    }
}

/* unicorn's access types: 16 to 18 read, write, fetch. */
void costsim_on_access(void *emulator, int type, uint64_t address, int size, int64_t value,
                       void *user)
{
    struct watch *w = user;
    uint64_t offset = address - w->ram_address;
    (void)value;
    if (w->conditional)
        clear_it_state(w, emulator);
    if (offset >= w->ram_bytes)
        return;
    if (w->written) {
        uint64_t start = (uint64_t)(w->operation + 1) * w->row_bytes;
        uint8_t *written = w->written + start, *read = w->read + start;
        for (int i = 0; i < size && offset + (uint64_t)i < w->ram_bytes; i++) {
            uint64_t at = (offset + (uint64_t)i) >> 3;
            uint8_t bit = (uint8_t)(1u << ((offset + (uint64_t)i) & 7u));
            if (type == 17)
                written[at] |= bit;
            else if (!(written[at] & bit)) /* what it wrote itself it did not need before */
                read[at] |= bit;
        }
    }
    if (address + (uint64_t)size > w->limit_address && !w->violation.happened) {
        uint64_t pc = 0;
        w->read_register(emulator, (int)w->pc_register, &pc);
        w->violation.address = address;
        w->violation.size = (uint32_t)size;
        w->violation.write = type == 17;
        w->violation.pc = (uint32_t)pc;
        w->violation.happened = 1;
        w->stop(emulator);
    }
}
