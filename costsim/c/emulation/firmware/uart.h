/* What a board provides: a line that carries bytes. */
#ifndef COSTSIM_UART_H
#define COSTSIM_UART_H
#include <stdint.h>

void uart_init(void);
uint8_t uart_get(void); /* waits for a byte */
void uart_put(uint8_t byte);

#endif
