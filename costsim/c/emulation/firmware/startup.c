/* Start of a Cortex-M firmware: vectors, FPU, data and bss, then main. */
#include <stdint.h>

extern uint32_t __stack_top, __stack_bottom, __data_start, __data_end, __data_load;
extern uint32_t __bss_start, __bss_end;

int main(void);
void Reset_Handler(void);
void costsim_fault(const uint32_t *frame);

/* The exception frame is where the stack pointer was: hand it on. */
__attribute__((naked, used)) void Fault_Handler(void)
{
    __asm volatile("mrs r0, msp\n b costsim_fault\n");
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &__stack_top,         (void *)Reset_Handler, (void *)Fault_Handler, (void *)Fault_Handler,
    (void *)Fault_Handler, (void *)Fault_Handler, (void *)Fault_Handler, 0,
    0,                    0,                     0,                     (void *)Fault_Handler,
    (void *)Fault_Handler, 0,                    (void *)Fault_Handler, (void *)Fault_Handler,
};

__attribute__((noreturn, used)) void Reset_Handler(void)
{
    uint32_t *to = &__data_start;
    const uint32_t *from = &__data_load;
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: the FPU on */
    __asm volatile("dsb\n isb\n" ::: "memory");
    while (to < &__data_end)
        *to++ = *from++;
    for (to = &__bss_start; to < &__bss_end; to++)
        *to = 0;
    main();
    for (;;)
        ;
}

/* What a compiler may call without being asked, in a place without a C library. */
void *memcpy(void *restrict to, const void *restrict from, __SIZE_TYPE__ count);
void *memmove(void *to, const void *from, __SIZE_TYPE__ count);
void *memset(void *to, int value, __SIZE_TYPE__ count);

__attribute__((weak, noinline)) void *memcpy(void *restrict to, const void *restrict from,
                                             __SIZE_TYPE__ count)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((((uintptr_t)t | (uintptr_t)f) & 3u) == 0) {
        for (; count >= 4; count -= 4, t += 4, f += 4)
            *(volatile uint32_t *)t = *(const uint32_t *)f;
    }
    while (count--)
        *(volatile uint8_t *)t++ = *f++;
    return to;
}

__attribute__((weak, noinline)) void *memmove(void *to, const void *from, __SIZE_TYPE__ count)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((uintptr_t)t - (uintptr_t)f >= count)
        return memcpy(to, from, count);
    while (count--)
        *(volatile uint8_t *)(t + count) = f[count];
    return to;
}

__attribute__((weak, noinline)) void *memset(void *to, int value, __SIZE_TYPE__ count)
{
    uint8_t *t = to;
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; count && ((uintptr_t)t & 3u); count--)
        *(volatile uint8_t *)t++ = (uint8_t)value;
    for (; count >= 4; count -= 4, t += 4)
        *(volatile uint32_t *)t = word;
    while (count--)
        *(volatile uint8_t *)t++ = (uint8_t)value;
    return to;
}

/* The names that the Arm ABI has for the same (RTABI, 4.3.4): memset's last two are turned round. */
#define SAME_AS(of) __attribute__((weak, alias(of)))
void __aeabi_memcpy(void *, const void *, __SIZE_TYPE__) SAME_AS("memcpy");
void __aeabi_memcpy4(void *, const void *, __SIZE_TYPE__) SAME_AS("memcpy");
void __aeabi_memcpy8(void *, const void *, __SIZE_TYPE__) SAME_AS("memcpy");
void __aeabi_memmove(void *, const void *, __SIZE_TYPE__) SAME_AS("memmove");
void __aeabi_memmove4(void *, const void *, __SIZE_TYPE__) SAME_AS("memmove");
void __aeabi_memmove8(void *, const void *, __SIZE_TYPE__) SAME_AS("memmove");
void __aeabi_memset(void *to, __SIZE_TYPE__ count, int value);
void __aeabi_memset4(void *, __SIZE_TYPE__, int) SAME_AS("__aeabi_memset");
void __aeabi_memset8(void *, __SIZE_TYPE__, int) SAME_AS("__aeabi_memset");
void __aeabi_memclr(void *to, __SIZE_TYPE__ count);
void __aeabi_memclr4(void *, __SIZE_TYPE__) SAME_AS("__aeabi_memclr");
void __aeabi_memclr8(void *, __SIZE_TYPE__) SAME_AS("__aeabi_memclr");

__attribute__((weak)) void __aeabi_memset(void *to, __SIZE_TYPE__ count, int value)
{
    memset(to, value, count);
}

__attribute__((weak)) void __aeabi_memclr(void *to, __SIZE_TYPE__ count)
{
    memset(to, 0, count);
}
