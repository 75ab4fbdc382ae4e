/* What was learnt, saved and loaded: two slots, of which the newest whole one counts.
 *
 * A slot is the updated weights (and class means) in blocks of COSTSIM_BLOCK_BYTES, filled up with
 * zeros, and a record in a last block, which makes it whole. All numbers are little endian. */
#include "costsim_model.h"

#define MAGIC 0x54534c43u /* "CLST" */
#define BLOCKS ((COSTSIM_KEPT_BYTES + COSTSIM_BLOCK_BYTES - 1) / COSTSIM_BLOCK_BYTES)
#define RECORD_BYTES 60 /* and a checksum of them */

static const uint8_t digest[16] = {COSTSIM_MODEL_DIGEST};

typedef struct {
    uint32_t sequence, checksum, classes;
} record;

/* Of zlib: start with 0. */
static uint32_t checksum_of(uint32_t before, const uint8_t *bytes, int32_t count) {
    uint32_t crc = ~before;
    int32_t i, bit;
    for (i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
        }
    }
    return ~crc;
}

static void put(uint8_t *to, uint32_t number) {
    int32_t i;
    for (i = 0; i < 4; i++, number >>= 8) {
        to[i] = (uint8_t)number;
    }
}

static uint32_t get(const uint8_t *from) {
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void describe(const record *r, uint8_t *block) {
    int32_t i;
    for (i = 0; i < RECORD_BYTES; i++) {
        block[i] = 0;
    }
    put(block, MAGIC);
    put(block + 4, COSTSIM_FORMAT);
    put(block + 8, r->sequence);
    put(block + 12, COSTSIM_KEPT_BYTES);
    put(block + 16, r->checksum);
    put(block + 20, r->classes);
    for (i = 0; i < 16; i++) {
        block[24 + i] = digest[i];
    }
    put(block + RECORD_BYTES, checksum_of(0, block, RECORD_BYTES));
}

static uint32_t start_of(const costsim_store *store, int32_t slot) {
    return slot ? store->slot_bytes : 0;
}

/* 1 where the slot is whole and of this model. */
static int32_t is_whole(const costsim_store *store, int32_t slot, record *r) {
    uint8_t block[COSTSIM_BLOCK_BYTES], wanted[COSTSIM_BLOCK_BYTES];
    const uint32_t start = start_of(store, slot);
    uint32_t found = 0;
    int32_t i;
    if (store->read(store->context, start + BLOCKS * COSTSIM_BLOCK_BYTES, block, sizeof block)) {
        return 0;
    }
    r->sequence = get(block + 8);
    r->checksum = get(block + 16);
    r->classes = get(block + 20);
    describe(r, wanted);
    for (i = 0; i < COSTSIM_BLOCK_BYTES; i++) {
        if (block[i] != wanted[i]) {
            return 0;
        }
    }
    for (i = 0; i < BLOCKS; i++) {
        const uint32_t at = start + (uint32_t)i * COSTSIM_BLOCK_BYTES;
        if (store->read(store->context, at, block, sizeof block)) {
            return 0;
        }
        found = checksum_of(found, block, COSTSIM_BLOCK_BYTES);
    }
    return found == r->checksum;
}

/* The slot to load from, or -1. */
static int32_t newest(const costsim_store *store, record *r) {
    record other;
    const int32_t first = is_whole(store, 0, r);
    const int32_t second = is_whole(store, 1, &other);
    if (second && (!first || (int32_t)(other.sequence - r->sequence) > 0)) {
        *r = other;
        return 1;
    }
    if (!first) {
        r->sequence = 0;
        return -1;
    }
    return 0;
}

/* Where the bytes of a slot are while they are not kept: one after another. */
typedef struct {
    int32_t part, done;
} cursor;

static uint8_t *next(cursor *c) {
    while (c->part < COSTSIM_KEPT_PARTS && c->done == costsim_kept[c->part].bytes) {
        c->part++;
        c->done = 0;
    }
    return c->part < COSTSIM_KEPT_PARTS ? (uint8_t *)costsim_kept[c->part].start + c->done++ : 0;
}

int32_t costsim_save(const costsim_store *store) {
    uint8_t block[COSTSIM_BLOCK_BYTES];
    cursor c = {0, 0};
    record r = {0, 0, 0};
    const int32_t slot = newest(store, &r) == 0;
    const uint32_t start = start_of(store, slot);
    int32_t b, i;
    r.sequence++;
    r.checksum = 0;
#if COSTSIM_BY_CLASS_MEANS
    r.classes = (uint32_t)costsim_classes;
#else
    r.classes = 0;
#endif
    for (b = 0; b < BLOCKS; b++) {
        const uint32_t at = start + (uint32_t)b * COSTSIM_BLOCK_BYTES;
        for (i = 0; i < COSTSIM_BLOCK_BYTES; i++) {
            const uint8_t *from = next(&c);
            block[i] = from ? *from : 0;
        }
        r.checksum = checksum_of(r.checksum, block, COSTSIM_BLOCK_BYTES);
        if (store->write(store->context, at, block, sizeof block)) {
            return 1;
        }
    }
    describe(&r, block);
    return store->write(store->context, start + BLOCKS * COSTSIM_BLOCK_BYTES, block, sizeof block)
               ? 1
               : 0;
}

int32_t costsim_load(const costsim_store *store) {
    uint8_t block[COSTSIM_BLOCK_BYTES];
    cursor c = {0, 0};
    record r = {0, 0, 0};
    uint32_t found = 0;
    int32_t b, i;
    const int32_t slot = newest(store, &r);
    costsim_init();
    if (slot < 0) {
        return 1;
    }
    for (b = 0; b < BLOCKS; b++) {
        const uint32_t at = start_of(store, slot) + (uint32_t)b * COSTSIM_BLOCK_BYTES;
        if (store->read(store->context, at, block, sizeof block)) {
            break;
        }
        found = checksum_of(found, block, COSTSIM_BLOCK_BYTES);
        for (i = 0; i < COSTSIM_BLOCK_BYTES; i++) {
            uint8_t *to = next(&c);
            if (to) {
                *to = block[i];
            }
        }
    }
    if (found != r.checksum) { /* not what it was a moment ago */
        costsim_init();
        return 1;
    }
#if COSTSIM_BY_CLASS_MEANS
    costsim_classes = r.classes <= COSTSIM_CLASSES ? (int32_t)r.classes : 0;
#endif
    return 0;
}
