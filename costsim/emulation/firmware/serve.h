#ifndef COSTSIM_SERVE_H
#define COSTSIM_SERVE_H
#endif
