/* UART0 of Arm's CMSDK, as on the MPS2 boards and their emulators. */
#include "uart.h"

#define UART0 ((volatile uint32_t *)0x40004000u)
enum { DATA, STATE, CTRL, INTERRUPT, BAUDDIV };

void uart_init(void)
{
    UART0[BAUDDIV] = 16;
    UART0[CTRL] = 3; /* transmit and receive */
}

uint8_t uart_get(void)
{
    while (!(UART0[STATE] & 2u))
        ;
    return (uint8_t)UART0[DATA];
}

void uart_put(uint8_t byte)
{
    while (UART0[STATE] & 1u)
        ;
    UART0[DATA] = byte;
}
