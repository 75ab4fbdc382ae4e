/* A firmware that waits to be called: an emulator sets the program counter to a function. */
#include <stdint.h>

__attribute__((noinline, used, noreturn)) void costsim_idle(void)
{
    for (;;)
        __asm volatile("wfi");
}

__attribute__((noreturn)) void costsim_fault(const uint32_t *frame)
{
    (void)frame;
    for (;;)
        __asm volatile("bkpt 1");
}

int main(void)
{
    costsim_idle();
}
