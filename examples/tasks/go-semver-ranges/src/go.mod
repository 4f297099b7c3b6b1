module modres

go 1.19
