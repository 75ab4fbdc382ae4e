/* Threads that wait for parts of an operation. */

#ifndef COSTSIM_THREADS_H
#define COSTSIM_THREADS_H

#include "operation.h"

/* Runs all parts of an operation, the first one in this thread; 0 where the threads are not to be
   had, being at work for somebody else or not being there: then nothing was run. */
int run_in_parts(operation_function *function, const struct operation *o, struct context context,
                 int parts);

#endif
