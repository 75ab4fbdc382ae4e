/* Serves training steps on a line. The frames are those of costsim/c/emulation/frames.py:
 *
 *   A5 5A  type  sequence  length (2)  check (2)  payload  CRC-32 (4)      little endian
 *
 * `check` is the low half of the CRC-32 of type to length, so that a damaged length is not waited
 * for; the last four bytes are the CRC-32 (that of zlib) of type to length and of the payload. */
#include <stdint.h>

#include "costsim_digest.h"
#include "costsim_model.h"
#include "uart.h"

enum {
    HELLO = 1, INIT, WRITE, READ, BEGIN, PASS, END, PREDICT, STATUS, /* asked */
    REPLY = 0x80, READY = 0xC0, FAULT = 0xFE, REFUSED = 0xFF
};
enum { BAD_CHECKSUM = 1, UNKNOWN_TYPE, OUT_OF_RANGE, WRONG_LENGTH };
enum { INPUT, LABELS, ARENA, OUTPUT, REGIONS };
enum { MAX_PAYLOAD = 512, PAINT = 0xA5A5A5A5u };

extern uint8_t __arena_start[], __arena_end[];
extern uint32_t __stack_bottom[], __stack_top[];

/* An input is received where the step wants it: in the arena, which is free there between steps. */
static int32_t labels[COSTSIM_SAMPLES];
static float logits[COSTSIM_SAMPLES * COSTSIM_OUTPUTS];
static uint8_t payload[MAX_PAYLOAD];

/* A request that came twice is answered twice but done once. */
static int32_t last_sequence = -1;
static uint8_t last_reply[8];

static uint32_t crc_byte(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1u));
    return crc;
}

static void put_crc(uint32_t *crc, uint8_t byte)
{
    *crc = crc_byte(*crc, byte);
    uart_put(byte);
}

static void send(uint8_t type, uint8_t sequence, const uint8_t *content, uint16_t length)
{
    uint32_t crc = ~0u;
    uart_put(0xA5);
    uart_put(0x5A);
    put_crc(&crc, type);
    put_crc(&crc, sequence);
    put_crc(&crc, (uint8_t)length);
    put_crc(&crc, (uint8_t)(length >> 8));
    uart_put((uint8_t)~crc);
    uart_put((uint8_t)(~crc >> 8));
    for (uint16_t i = 0; i < length; i++)
        put_crc(&crc, content[i]);
    crc = ~crc;
    for (int i = 0; i < 4; i++, crc >>= 8)
        uart_put((uint8_t)crc);
}

static void put_word(uint8_t *to, uint32_t word)
{
    for (int i = 0; i < 4; i++, word >>= 8)
        to[i] = (uint8_t)word;
}

static uint32_t get_word(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Waits for a frame; 0 if its checksum is wrong. A damaged header is passed over in silence. */
static int receive(uint8_t *type, uint8_t *sequence, uint16_t *length)
{
    uint8_t head[6];
    uint8_t byte = 0, before;
    for (;;) {
        do {
            before = byte;
            byte = uart_get();
        } while (before != 0xA5 || byte != 0x5A);
        uint32_t crc = ~0u;
        for (int i = 0; i < 6; i++) {
            head[i] = uart_get();
            if (i < 4)
                crc = crc_byte(crc, head[i]);
        }
        *type = head[0];
        *sequence = head[1];
        *length = (uint16_t)(head[2] | head[3] << 8);
        byte = head[5];
        if ((uint16_t)~crc != (uint16_t)(head[4] | head[5] << 8) || *length > MAX_PAYLOAD)
            continue;
        for (uint16_t i = 0; i < *length; i++) {
            payload[i] = uart_get();
            crc = crc_byte(crc, payload[i]);
        }
        uint32_t told = 0;
        for (int i = 0; i < 4; i++)
            told |= (uint32_t)uart_get() << 8 * i;
        return told == ~crc;
    }
}

static void introduce(uint8_t type, uint8_t sequence)
{
    static const uint8_t digest[16] = COSTSIM_DIGEST;
    uint8_t told[40];
    put_word(told, 1); /* the version of the protocol */
    put_word(told + 4, COSTSIM_SAMPLES);
    put_word(told + 8, COSTSIM_PASSES);
    put_word(told + 12, COSTSIM_INPUTS);
    put_word(told + 16, COSTSIM_OUTPUTS);
    put_word(told + 20, COSTSIM_ARENA_BYTES);
    for (int i = 0; i < 16; i++)
        told[24 + i] = digest[i];
    send(type, sequence, told, sizeof told);
}

/* Bytes of stack and arena that are no longer as painted. */
static void report(uint8_t sequence)
{
    uint8_t told[12];
    const volatile uint32_t *low = __stack_bottom;
    const volatile uint32_t *high = (const volatile uint32_t *)(uintptr_t)__arena_end;
    const volatile uint32_t *start = (const volatile uint32_t *)(uintptr_t)__arena_start;
    while (low < __stack_top && *low == PAINT)
        low++;
    while (high > start && high[-1] == PAINT)
        high--;
    put_word(told, (uint32_t)costsim_steps);
    put_word(told + 4, (uint32_t)((uintptr_t)__stack_top - (uintptr_t)low));
    put_word(told + 8, (uint32_t)((uintptr_t)high - (uintptr_t)start));
    send(REPLY | STATUS, sequence, told, sizeof told);
}

static uint8_t *region(uint8_t number, uint32_t offset, uint32_t count)
{
    uint8_t *const starts[REGIONS] = {(uint8_t *)(COSTSIM_INPUT), (uint8_t *)labels,
                                      (uint8_t *)costsim_arena, (uint8_t *)logits};
    const uint32_t sizes[REGIONS] = {COSTSIM_INPUT_BYTES, sizeof labels, COSTSIM_ARENA_BYTES,
                                     sizeof logits};
    if (number >= REGIONS || offset > sizes[number] || count > sizes[number] - offset)
        return 0;
    return starts[number] + offset;
}

static void refuse(uint8_t sequence, uint8_t why)
{
    send(REFUSED, sequence, &why, 1);
}

static void answer(uint8_t type, uint8_t sequence, uint16_t length)
{
    uint8_t *place;
    uint32_t count;
    union {
        float value;
        uint32_t bits;
    } loss = {0};
    switch (type) {
    case HELLO:
        last_sequence = -1;
        introduce(REPLY | HELLO, sequence);
        return;
    case STATUS:
        report(sequence);
        return;
    case READ:
        if (length != 7) {
            refuse(sequence, WRONG_LENGTH);
            return;
        }
        count = payload[5] | (uint32_t)payload[6] << 8;
        place = count > MAX_PAYLOAD ? 0 : region(payload[0], get_word(payload + 1), count);
        if (!place)
            refuse(sequence, OUT_OF_RANGE);
        else
            send(REPLY | READ, sequence, place, (uint16_t)count);
        return;
    case WRITE:
        if (length < 5) {
            refuse(sequence, WRONG_LENGTH);
            return;
        }
        place = region(payload[0], get_word(payload + 1), length - 5u);
        if (!place) {
            refuse(sequence, OUT_OF_RANGE);
            return;
        }
        for (uint16_t i = 5; i < length; i++)
            place[i - 5] = payload[i];
        send(REPLY | WRITE, sequence, 0, 0);
        return;
    case INIT:
    case BEGIN:
    case PASS:
    case END:
    case PREDICT:
        if (sequence != last_sequence) {
            if (type == INIT)
                costsim_init();
            else if (type == BEGIN)
                costsim_begin_step();
            else if (type == PASS)
                loss.value = costsim_pass(COSTSIM_INPUT, labels);
            else if (type == END)
                costsim_end_step();
            else
                costsim_predict(COSTSIM_INPUT, logits);
            put_word(last_reply, loss.bits);
            put_word(last_reply + 4, (uint32_t)costsim_steps);
            last_sequence = sequence;
        }
        send(REPLY | type, sequence, last_reply, sizeof last_reply);
        return;
    default:
        refuse(sequence, UNKNOWN_TYPE);
    }
}

__attribute__((noreturn)) void costsim_fault(const uint32_t *frame)
{
    uint8_t told[20], type, sequence;
    uint16_t length;
    put_word(told, frame[6]);                               /* program counter */
    put_word(told + 4, frame[5]);                           /* link register */
    put_word(told + 8, *(volatile uint32_t *)0xE000ED28u);  /* CFSR: what happened */
    put_word(told + 12, *(volatile uint32_t *)0xE000ED38u); /* BFAR: at which address */
    put_word(told + 16, (uint32_t)costsim_running);         /* the operation that ran */
    send(FAULT, 0, told, sizeof told);
    for (;;) { /* whatever is asked, that is the answer */
        receive(&type, &sequence, &length);
        send(FAULT, sequence, told, sizeof told);
    }
}

static void paint(void)
{
    volatile uint32_t *word = __stack_bottom;
    uint32_t here;
    while (word < (volatile uint32_t *)&here - 16)
        *word++ = PAINT;
    word = (volatile uint32_t *)(uintptr_t)__arena_start;
    while (word < (volatile uint32_t *)(uintptr_t)__arena_end)
        *word++ = PAINT;
}

int main(void)
{
    uint8_t type, sequence;
    uint16_t length;
    paint();
    uart_init();
    costsim_init();
    introduce(READY, 0);
    for (;;) {
        if (receive(&type, &sequence, &length))
            answer(type, sequence, length);
        else
            refuse(sequence, BAD_CHECKSUM);
    }
}
